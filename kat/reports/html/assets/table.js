// The table that mirrors the map: the same points, sorted, in pages.

class Table {
  /** `hooks`: onTick(row, ticked), onLook(row or -1), isTicked(row). */
  constructor(points, table, hooks) {
    Object.assign(this, { points, table, hooks, rows: [], page: 0, size: 25, by: -1, down: true, cache: [] });
    this.columns = [
      { title: "Id", text: (i) => points.ids[i], key: (i) => points.ids[i], name: "id" },
      { title: "Text", text: (i) => points.texts[i], key: (i) => points.texts[i], name: "words" },
      ...this.numberColumns(),
      ...points.kinds.map(({ name, values, index }) => {
        const kind = (i) => values[index[i]];
        return { title: name, text: (i) => kind(i) || "–", key: kind, name: "kind" };
      }),
    ];
    this.drawHead();
    const first = this.columns.findIndex(({ title }) => title.toLowerCase() === "weight");
    if (first >= 0) this.sort(first, true);
  }

  /** Weight and density stand first. */
  numberColumns() {
    const rank = ({ name }) => ["weight", "log density", "density"].indexOf(name.toLowerCase());
    const numbers = this.points.numbers.filter((number) => rank(number) >= 0).sort((a, b) => rank(a) - rank(b));
    numbers.push(...this.points.numbers.filter((number) => rank(number) < 0));
    return numbers.map(({ name, values }) => ({ title: name, text: (i) => told(values[i]), values, name: "figure" }));
  }

  drawHead() {
    const head = make("tr");
    head.append(make("th", "", "tick"));
    for (const [at, { title, name }] of this.columns.entries()) {
      const cell = make("th", undefined, name);
      cell.scope = "col";
      const button = make("button");
      button.type = "button";
      button.append(make("bdi", title), make("span", "", "arrow"));
      button.addEventListener("click", () => this.sort(at, this.by === at ? !this.down : name === "figure"));
      cell.append(button);
      head.append(cell);
    }
    this.table.tHead.replaceChildren(head);
  }

  sort(at, down) {
    Object.assign(this, { by: at, down });
    for (const [i, cell] of [...this.table.tHead.rows[0].cells].slice(1).entries()) {
      if (i === at) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      cell.querySelector(".arrow").textContent = i === at ? (down ? " ▼" : " ▲") : "";
    }
    this.list(this.rows);
  }

  /** Show these rows, in the order that was chosen; what is not known comes last. */
  list(rows) {
    this.rows = Uint32Array.from(rows);
    if (this.by >= 0) {
      const { values, key } = this.columns[this.by];
      const sign = this.down ? -1 : 1;
      if (values) {
        const last = (i) => (Number.isNaN(values[i]) ? 1 : 0);
        this.rows.sort((a, b) => last(a) - last(b) || sign * (values[a] - values[b]) || a - b);
      } else {
        const keys = new Map();
        for (const i of this.rows) keys.set(i, key(i));
        this.rows.sort((a, b) => {
          const [one, other] = [keys.get(a), keys.get(b)];
          return one === other ? a - b : (one < other ? -1 : 1) * sign;
        });
      }
    }
    this.turn(0);
  }

  pages() {
    return Math.max(1, Math.ceil(this.rows.length / this.size));
  }

  turn(page) {
    this.page = inside(page, 0, this.pages() - 1);
    const body = this.table.tBodies[0];
    body.replaceChildren();
    const start = this.page * this.size;
    for (const i of this.rows.slice(start, start + this.size)) body.append(this.row(i));
    const end = Math.min(start + this.size, this.rows.length);
    const range = this.rows.length ? `${counted.format(start + 1)}–${counted.format(end)} of ` : "";
    byId("map-page").textContent = `${range}${counted.format(this.rows.length)}`;
    byId("map-back").disabled = this.page === 0;
    byId("map-next").disabled = this.page >= this.pages() - 1;
  }

  row(i) {
    const row = make("tr");
    row.dataset.row = i;
    const tick = make("input");
    tick.type = "checkbox";
    tick.checked = this.hooks.isTicked(i);
    tick.setAttribute("aria-label", `Select ${this.points.ids[i]}`);
    tick.addEventListener("change", () => this.hooks.onTick(i, tick.checked));
    const cell = make("td", undefined, "tick");
    cell.append(tick);
    row.append(cell);
    for (const { text, name } of this.columns) {
      const words = make("bdi", text(i));
      words.dir = "auto";
      const column = make("td", undefined, name);
      column.append(words);
      row.append(column);
    }
    row.addEventListener("focusin", () => this.hooks.onLook(i, true));
    row.addEventListener("focusout", () => this.hooks.onLook(-1));
    row.addEventListener("pointerenter", () => this.hooks.onLook(i));
    row.addEventListener("pointerleave", () => this.hooks.onLook(-1));
    return row;
  }
}
