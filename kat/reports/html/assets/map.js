// The map at work: colours, search, lasso, and what the pointer and the keys do.

class Tool {
  constructor(points) {
    this.points = points;
    this.matches = null; // of the search: 1 a match; null without a search
    this.picked = new Uint8Array(points.count);
    this.only = false; // the table lists what is picked alone
    this.rings = { hover: -1, look: -1, pin: -1 };
    this.lasso = [];
    this.view = new View(points, byId("map-canvas"), byId("map-over"));
    this.choices = [
      ...points.numbers.map((number) => ({ name: number.name, number })),
      ...points.kinds.map((kind) => ({ name: kind.name, kind })),
    ];
    this.fillChoices();
    this.colour();
    this.listen();
  }

  fillChoices() {
    const select = byId("map-colour");
    for (const [i, { name }] of this.choices.entries()) select.append(new Option(name, i));
    select.addEventListener("change", () => this.colour());
  }

  face() {
    const style = getComputedStyle(document.documentElement);
    const hex = (name) => rgb(style.getPropertyValue(name).trim());
    const paper = hex("--map-paper");
    return { paper, ghost: hex("--map-ghost"), ink: style.getPropertyValue("--ink").trim(), font: style.fontFamily, dark: paper[0] < 128 };
  }

  colour() {
    this.choice = this.choices[byId("map-colour").selectedIndex] ?? { name: "" };
    const { name, number, kind } = this.choice;
    const dark = this.face().dark;
    const none = { index: new Uint8Array(this.points.count), colours: [rgb(KINDS[0])], entries: [] };
    this.view.colouring = number ? byNumber(number, dark) : kind ? byKind(kind, dark) : none;
    showLegend(byId("map-legend"), name, this.view.colouring);
    const label = `Map of ${counted.format(this.points.count)} ${this.units()}`;
    this.view.canvas.setAttribute("aria-label", name ? `${label}, coloured by ${name}` : label);
    this.tellPicked();
    this.redraw();
  }

  /** Draw once a frame, however often it is asked for. */
  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    cancelAnimationFrame(this.waiting);
    this.waiting = 0;
    this.view.shown = this.only ? this.picked : this.matches;
    this.view.draw(this.face());
    this.drawOver();
    if (!performance.getEntriesByName("kat-map-drawn").length) performance.mark("kat-map-drawn");
  }

  drawOver() {
    const rings = new Set(Object.values(this.rings).filter((i) => i >= 0));
    this.view.drawOver(this.face(), rings, this.lasso);
    this.showTip();
  }

  // The tip of the point under the pointer, or of the one that is pinned.

  showTip() {
    const tip = byId("map-tip");
    const i = this.rings.hover >= 0 ? this.rings.hover : this.rings.pin;
    tip.hidden = i < 0;
    if (i < 0) return;
    if (tip.dataset.row !== String(i) || tip.dataset.by !== this.choice.name) this.fillTip(tip, i);
    const [x, y] = this.view.place(i);
    const left = x + 14 + tip.offsetWidth > this.view.width ? x - 14 - tip.offsetWidth : x + 14;
    tip.style.left = `${inside(left, 4, Math.max(4, this.view.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${inside(y + 12, 4, Math.max(4, this.view.height - tip.offsetHeight - 4))}px`;
  }

  fillTip(tip, i) {
    Object.assign(tip.dataset, { row: i, by: this.choice.name });
    const words = make("p", undefined, "words");
    const text = make("bdi", this.points.texts[i] ?? "");
    text.dir = "auto";
    words.append(text);
    const facts = make("dl");
    const add = (name, value) => {
      const term = make("dt");
      term.append(make("bdi", name));
      const told = make("dd");
      told.append(make("bdi", value));
      facts.append(term, told);
    };
    add("id", this.points.ids[i] ?? "");
    const weight = numberNamed(this.points, "weight");
    if (weight) add(weight.name, told(weight.values[i]));
    const { name, number, kind } = this.choice;
    if (number && number !== weight) add(name, told(number.values[i]));
    if (kind) add(name, kind.values[kind.index[i]] || "–");
    tip.replaceChildren(words, facts);
  }

  // Search and selection.

  search(sought) {
    const { texts, ids, count } = this.points;
    this.lower ??= texts.map((text) => text.toLowerCase());
    const words = sought.trim().toLowerCase();
    this.matches = words ? Uint8Array.from({ length: count }, (_, i) => this.lower[i].includes(words) || ids[i].toLowerCase().includes(words)) : null;
    this.only = false;
    this.relist();
  }

  listed() {
    const among = this.only ? this.picked : this.matches;
    const rows = [];
    for (let i = 0; i < this.points.count; i++) if (!among || among[i]) rows.push(i);
    return rows;
  }

  pick(rows) {
    this.picked.fill(0);
    for (const i of rows) this.picked[i] = 1;
    this.only = rows.length > 0;
    this.relist();
  }

  clear() {
    byId("map-search").value = "";
    Object.assign(this, { matches: null, only: false, lasso: [] });
    this.rings.pin = -1;
    this.picked.fill(0);
    this.relist();
  }

  relist() {
    this.table.list(this.listed());
    this.tellPicked();
    this.redraw();
  }

  pickedRows() {
    return [...this.picked.keys()].filter((i) => this.picked[i]);
  }

  tellPicked() {
    const rows = this.pickedRows();
    byId("map-picked").hidden = !rows.length;
    const all = counted.format(this.points.count);
    let status = `${all} ${this.units()}`;
    if (this.matches) status = `${counted.format(this.matches.reduce((sum, one) => sum + one, 0))} of ${all} ${this.units()} match`;
    if (rows.length) status = `${counted.format(rows.length)} of ${all} ${this.units()} selected`;
    byId("map-status").textContent = status;
    if (!rows.length) return;
    const weight = numberNamed(this.points, "weight");
    const means = [weight, this.choice.number].filter((number, at, all) => number && all.indexOf(number) === at);
    const words = means.map(({ name, values }) => `mean ${name} ${told(meanOf(values, rows))}`);
    byId("map-means").textContent = [`${counted.format(rows.length)} selected`, ...words].join(" · ");
  }

  /** What the points are called: openings or contexts. */
  units(count = this.points.count) {
    return this.points.unit[count === 1 ? 0 : 1];
  }

  exported() {
    return this.pickedRows().map((i) => `${this.points.ids[i]}\n`).join("");
  }
}
