// What works without a map: copying, light and dark, printing; then the map, where the page has one.

const root = document.documentElement;
let redraw = () => {};

async function copy(button, text) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const words = button.dataset.words ?? button.textContent;
  button.dataset.words = words;
  button.textContent = done ? "Copied" : "Select and copy by hand";
  setTimeout(() => (button.textContent = words), 1600);
}

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

for (const element of document.querySelectorAll("button.needs-script")) element.hidden = false;
for (const button of document.querySelectorAll("button.copy")) {
  const code = button.closest(".commands").querySelector("code");
  button.addEventListener("click", () => copy(button, `${code.textContent}\n`));
}

const darkScreen = matchMedia("(prefers-color-scheme: dark)");

/** What the reader chose is kept where the browser keeps anything for a file. */
function remembered(face) {
  try {
    if (face) localStorage.setItem("kat-face", face);
    return localStorage.getItem("kat-face");
  } catch {
    return null;
  }
}

function setFace(face) {
  if (face) root.dataset.face = face;
  else delete root.dataset.face;
  redraw();
}

setFace(remembered());
darkScreen.addEventListener("change", () => redraw());
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.face ? root.dataset.face === "dark" : darkScreen.matches;
  setFace(dark ? "light" : "dark");
  remembered(root.dataset.face);
});

/** A canvas that was just drawn may print empty: paper gets a picture of it. */
function showPicture() {
  const canvas = document.getElementById("map-canvas");
  if (!canvas?.clientWidth) return;
  const picture = new Image(canvas.width, canvas.height);
  Object.assign(picture, { id: "map-picture", alt: canvas.getAttribute("aria-label") ?? "", decoding: "sync", src: canvas.toDataURL() });
  document.getElementById("map-picture")?.remove();
  canvas.parentElement.append(picture);
}

// Paper is light, and nothing can be opened on it.
let before = null;
addEventListener("beforeprint", () => {
  const folded = [...document.querySelectorAll("details:not([open])")];
  before = { face: root.dataset.face, folded };
  for (const element of folded) element.open = true;
  setFace("light");
  showPicture();
});
addEventListener("afterprint", () => {
  document.getElementById("map-picture")?.remove();
  for (const element of before?.folded ?? []) element.open = false;
  setFace(before?.face);
  before = null;
});

if (document.getElementById("map-facts")) {
  startMap((draw) => (redraw = draw)).catch((error) => {
    const problem = document.getElementById("map-problem");
    problem.textContent = error.message;
    problem.hidden = false;
    document.getElementById("map-tool").hidden = true;
  });
}
