// What points are coloured by: a scale for numbers, a colour each for kinds, and the legend of both.

const STEPS = 64;
const MOST_KINDS = 12;
const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
];
// Okabe & Ito (2008), then colours of Tol (2021); in the dark the darkest are lighter.
const KINDS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#999933", "#332288",
  "#44aa99", "#7a4b2a", "#aa4499"];
const KINDS_DARK = { "#0072b2": "#3a8fd9", "#56b4e9": "#a8e0ff", "#882255": "#e5485d", "#332288": "#9f8fe8", "#7a4b2a": "#b98560" };

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const css = (colour) => `rgb(${colour.join(" ")})`;

/** Viridis without the end that the paper would swallow. */
function scaleColours(dark) {
  const [from, to] = dark ? [0.16, 1] : [0, 0.9];
  return Array.from({ length: STEPS }, (_, i) => {
    const at = (from + ((to - from) * i) / (STEPS - 1)) * (VIRIDIS.length - 1);
    const [low, high] = [VIRIDIS[Math.floor(at)], VIRIDIS[Math.min(Math.floor(at) + 1, VIRIDIS.length - 1)]];
    return low.map((value, channel) => Math.round(value + (high[channel] - value) * (at % 1)));
  });
}

/** Colour by a number: its middle 98 % spread over the scale, on a logarithmic one where it spans decades. */
function byNumber(number, dark) {
  const known = number.values.filter((value) => Number.isFinite(value)).sort();
  const quantile = (share) => known[Math.round(share * (known.length - 1))];
  let [low, high] = known.length ? [quantile(0.01), quantile(0.99)] : [0, 1];
  if (low === high && known.length) [low, high] = [known[0], known[known.length - 1]];
  const log = low > 0 && high / low > 30;
  const seen = log ? Math.log : (value) => value;
  const [start, span] = [seen(low), seen(high) - seen(low) || 1];
  const index = new Uint8Array(number.values.length);
  let unknown = false;
  for (let i = 0; i < index.length; i++) {
    const value = number.values[i];
    const share = (seen(Math.max(value, log ? 1e-300 : value)) - start) / span;
    if (Number.isNaN(value)) [index[i], unknown] = [STEPS, true];
    else index[i] = Math.round(Math.min(Math.max(share, 0), 1) * (STEPS - 1));
  }
  const clip = known.length > 0 && (known[0] < low || known[known.length - 1] > high);
  return { index, colours: [...scaleColours(dark), grey(dark)], low, high, log, clip, unknown };
}

/** Colour by a kind: the frequent ones have a colour each. Index 0 is what is not known. */
function byKind(kind, dark) {
  const many = kind.values.length - 1;
  const own = many <= MOST_KINDS ? many : MOST_KINDS - 1;
  const index = Uint8Array.from(kind.index, (value) => (value <= own ? value : own + 1));
  const colours = KINDS.slice(0, own).map((hex) => rgb((dark && KINDS_DARK[hex]) || hex));
  const counts = new Uint32Array(own + 2);
  for (const value of index) counts[value] += 1;
  const entries = [];
  for (let i = 1; i <= own; i++) entries.push({ name: kind.values[i], colour: colours[i - 1], count: counts[i] });
  const rest = dark ? [120, 126, 133] : [150, 156, 163];
  if (counts[own + 1]) entries.push({ name: `${many - own} others`, colour: rest, count: counts[own + 1] });
  if (counts[0]) entries.push({ name: "not known", colour: grey(dark), count: counts[0] });
  return { index, colours: [grey(dark), ...colours, rest], entries };
}

const grey = (dark) => (dark ? [84, 90, 98] : [190, 195, 201]);

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

function showLegend(host, name, colouring) {
  host.replaceChildren();
  if (colouring.entries) {
    const list = make("ul", undefined, "kinds");
    for (const { name: kind, colour, count } of colouring.entries) {
      const item = make("li");
      const dot = make("span", undefined, "dot");
      dot.style.background = css(colour);
      item.append(dot, make("bdi", kind), make("span", counted.format(count), "faint"));
      list.append(item);
    }
    host.append(list);
    return;
  }
  const { low, high, log, clip, unknown, colours } = colouring;
  const bar = make("span", undefined, "bar-scale");
  const ramp = colours.slice(0, STEPS).map(css);
  bar.style.background = `linear-gradient(to right, ${ramp.join(",")})`;
  const middle = log ? Math.sqrt(low * high) : (low + high) / 2;
  const ends = make("span", undefined, "ends");
  ends.append(make("span", (clip ? "≤ " : "") + told(low)), make("span", told(middle)), make("span", (clip ? "≥ " : "") + told(high)));
  const scale = make("div", undefined, "scale");
  scale.append(bar, ends);
  const title = make("span", undefined, "faint");
  title.append(make("bdi", name), log ? " (logarithmic)" : "");
  host.append(title, scale);
  if (unknown) {
    const dot = make("span", undefined, "dot");
    dot.style.background = css(colours[STEPS]);
    const words = make("span", undefined, "unknown faint");
    words.append(dot, "not known");
    host.append(words);
  }
}
