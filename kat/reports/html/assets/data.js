// The points of the map: columns that stand in the page, compressed, become typed arrays.

const byId = (id) => document.getElementById(id);

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

async function column(name) {
  const packed = new Blob([bytesOf(byId(`map-column-${name}`).textContent)]);
  return new Response(packed.stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

/** What is drawn: coordinates in a square of side 1, y downwards, and what points are coloured by. */
async function loadPoints() {
  const facts = JSON.parse(byId("map-facts").textContent);
  const [x, y] = [new Uint16Array(await column("x")), new Uint16Array(await column("y"))];
  const side = Math.max(...facts.span);
  const [wide, high] = facts.span.map((span) => span / side);
  const points = { facts, count: facts.points, wide, high, unit: facts.unit, numbers: [], kinds: [], ids: [], texts: [] };
  points.u = Float32Array.from(x, (value) => (value / 65535) * wide);
  points.v = Float32Array.from(y, (value) => (1 - value / 65535) * high);
  for (const [i, name] of facts.numbers.entries()) {
    points.numbers.push({ name, values: new Float32Array(await column(`number-${i}`)) });
  }
  for (const [i, kind] of facts.kinds.entries()) {
    points.kinds.push({ ...kind, index: new Uint32Array(await column(`kind-${i}`)) });
  }
  points.labels = facts.labels.map(([lx, ly, words]) => ({
    u: ((lx - facts.low[0]) / facts.span[0]) * wide,
    v: (1 - (ly - facts.low[1]) / facts.span[1]) * high,
    words,
  }));
  return points;
}

/** What is read: ids and texts, which may come after the first picture. */
async function loadWords(points) {
  const ids = await column("ids");
  if (points.facts.hex) {
    const bytes = new Uint8Array(ids);
    const pairs = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
    points.ids = Array.from({ length: points.count }, (_, i) => {
      let id = "";
      for (let j = 8 * i; j < 8 * i + 8; j++) id += pairs[bytes[j]];
      return id;
    });
  } else points.ids = JSON.parse(new TextDecoder().decode(ids));
  points.texts = points.count ? new TextDecoder().decode(await column("texts")).split("\0") : [];
}

function numberNamed(points, name) {
  return points.numbers.find((number) => number.name.toLowerCase() === name);
}

const inFour = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const inPowers = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, notation: "scientific" });
const counted = new Intl.NumberFormat("en");

function told(value) {
  if (Number.isNaN(value)) return "–";
  const tiny = value !== 0 && Math.abs(value) < 1e-4;
  return (tiny || Math.abs(value) >= 1e9 ? inPowers : inFour).format(value).replace("-", "−");
}

function meanOf(values, rows) {
  let [sum, known] = [0, 0];
  for (const i of rows) {
    if (Number.isNaN(values[i])) continue;
    sum += values[i];
    known += 1;
  }
  return known ? sum / known : NaN;
}
