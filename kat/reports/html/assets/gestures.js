// What the pointer and the keys do on the map, and what the buttons around it do.

Tool.prototype.listen = function () {
  const canvas = this.view.canvas;
  this.pointers = new Map();
  canvas.addEventListener("pointerdown", (event) => this.press(event));
  canvas.addEventListener("pointermove", (event) => this.drag(event));
  canvas.addEventListener("pointerup", (event) => this.lift(event));
  canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => this.hover(-1));
  canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  canvas.addEventListener("keydown", (event) => this.key(event));
  const zooms = { "map-in": 1.5, "map-out": 1 / 1.5 };
  for (const [id, times] of Object.entries(zooms)) byId(id).addEventListener("click", () => this.zoom(times));
  byId("map-reset").addEventListener("click", () => this.reset());
  new ResizeObserver(() => this.view.resize() && this.drawNow()).observe(canvas);
};

/** Where a pointer is on the canvas. */
Tool.prototype.at = function (event) {
  const box = this.view.canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

Tool.prototype.zoom = function (times, x, y) {
  this.view.zoom(times, x, y);
  this.redraw();
};

Tool.prototype.reset = function () {
  this.view.fit();
  this.redraw();
};

Tool.prototype.hover = function (i) {
  if (this.rings.hover === i) return;
  this.rings.hover = i;
  this.drawOver();
};

Tool.prototype.press = function (event) {
  if (event.button) return;
  this.view.canvas.setPointerCapture(event.pointerId);
  this.pointers.set(event.pointerId, this.at(event));
  this.start = this.at(event);
  this.moved = this.pointers.size > 1;
  if (this.drawing && this.pointers.size === 1) this.lasso = [this.start];
};

Tool.prototype.drag = function (event) {
  const here = this.at(event);
  const before = this.pointers.get(event.pointerId);
  if (!before) {
    this.hover(this.drawing ? -1 : this.view.nearest(...here, event.pointerType === "touch" ? 24 : 12));
    return;
  }
  if (Math.hypot(here[0] - this.start[0], here[1] - this.start[1]) > 4) this.moved = true;
  if (this.pointers.size === 2) this.pinch(event.pointerId, before, here);
  else if (this.drawing) this.lasso.push(here);
  else if (this.moved) this.view.move(here[0] - before[0], here[1] - before[1]);
  this.pointers.set(event.pointerId, here);
  if (this.drawing) this.drawOver();
  else if (this.moved) this.redraw();
};

Tool.prototype.pinch = function (moving, before, here) {
  const [, still] = [...this.pointers].find(([id]) => id !== moving);
  const far = ([x, y]) => Math.max(1, Math.hypot(x - still[0], y - still[1]));
  this.lasso = [];
  this.view.zoom(far(here) / far(before), ...still);
  this.redraw();
};

Tool.prototype.lift = function (event) {
  if (!this.pointers.delete(event.pointerId)) return;
  if (this.drawing && this.lasso.length > 2) {
    const rows = this.view.within(this.lasso);
    this.lasso = [];
    this.toggleLasso(false);
    if (rows.length) this.pick(rows);
    else byId("map-status").textContent = `No ${this.units(1)} lies in the lasso`;
    this.drawOver();
  } else if (!this.moved && !this.drawing) {
    this.rings.pin = this.view.nearest(...this.at(event), event.pointerType === "touch" ? 24 : 12);
    this.drawOver();
    if (this.rings.pin >= 0) byId("map-status").textContent = `Pinned ${this.points.ids[this.rings.pin]}`;
  }
};

Tool.prototype.toggleLasso = function (on) {
  this.drawing = on;
  this.lasso = [];
  byId("map-lasso").setAttribute("aria-pressed", on);
  byId("map-frame").classList.toggle("drawing", on);
  this.drawOver();
};

/** The wheel moves the page until the map was chosen, so that nobody gets stuck on it. */
Tool.prototype.wheel = function (event) {
  if (!event.ctrlKey && document.activeElement !== this.view.canvas) return;
  event.preventDefault();
  const lines = event.deltaMode ? 30 : 1;
  this.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), ...this.at(event));
};

Tool.prototype.key = function (event) {
  const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in steps) {
    this.view.move(...steps[event.key]);
    this.redraw();
  } else if (event.key === "+" || event.key === "=") this.zoom(1.4);
  else if (event.key === "-" || event.key === "_") this.zoom(1 / 1.4);
  else if (event.key === "0") this.reset();
  else if (event.key === "Escape") {
    this.rings.pin = -1;
    this.toggleLasso(false);
  } else return;
  event.preventDefault();
};

/** Once ids and texts are read, the table and what needs them work. */
Tool.prototype.listenToWords = function () {
  const hooks = {
    isTicked: (i) => this.picked[i] === 1,
    onTick: (i, ticked) => {
      this.picked[i] = ticked ? 1 : 0;
      this.tellPicked();
      if (this.only) this.redraw();
    },
    onLook: (i, focused) => {
      this.rings.look = i;
      if (i >= 0 && focused && this.view.reveal(i)) this.redraw();
      else this.drawOver();
    },
  };
  this.table = new Table(this.points, byId("map-table"), hooks);
  this.table.list(this.listed());
  let pause = 0;
  byId("map-search").addEventListener("input", (event) => {
    clearTimeout(pause);
    pause = setTimeout(() => this.search(event.target.value), 120);
  });
  const clicks = {
    "map-lasso": () => this.toggleLasso(!this.drawing),
    "map-select": () => this.pick(this.listed()),
    "map-clear": () => this.clear(),
    "map-back": () => this.table.turn(this.table.page - 1),
    "map-next": () => this.table.turn(this.table.page + 1),
    "map-export": () => save(`${this.units(1)}_ids.txt`, this.exported()),
    "map-copy": (event) => copy(event.target, this.exported()),
  };
  for (const [id, act] of Object.entries(clicks)) byId(id).addEventListener("click", act);
  byId("map-rows").addEventListener("change", (event) => {
    this.table.size = Number(event.target.value);
    this.table.turn(0);
  });
};

async function startMap(redrawn) {
  if (typeof DecompressionStream === "undefined") {
    const browsers = "Chrome and Edge 80, Safari 16.4, Firefox 113, or later";
    throw new Error(`The map needs a browser with DecompressionStream: ${browsers}.`);
  }
  const points = await loadPoints();
  byId("map-tool").hidden = false;
  const tool = new Tool(points);
  tool.drawNow();
  redrawn(() => {
    tool.view.resize();
    tool.colour();
    tool.drawNow();
  });
  await loadWords(points);
  tool.listenToWords();
  performance.mark("kat-map-ready");
  document.documentElement.dataset.map = "ready";
}
