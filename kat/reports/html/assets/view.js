// The picture: points are blended into pixels in their order, for that needs no graphics card; labels stand on top.

const inside = (value, low, high) => Math.min(Math.max(value, low), high);

/** Which points lie in which cell of a grid: those of cell c are `order[starts[c]]` to `order[starts[c + 1]]`. */
function gridOf(points) {
  const side = inside(Math.ceil(Math.sqrt(points.count / 3)), 1, 512);
  const cells = Uint32Array.from(points.u, (u, i) => {
    const [a, b] = [Math.floor(u * side), Math.floor(points.v[i] * side)];
    return Math.min(b, side - 1) * side + Math.min(a, side - 1);
  });
  const starts = new Uint32Array(side * side + 1);
  for (const cell of cells) starts[cell + 1] += 1;
  for (let i = 0; i < side * side; i++) starts[i + 1] += starts[i];
  const [next, order] = [starts.slice(), new Uint32Array(points.count)];
  for (let i = 0; i < points.count; i++) order[next[cells[i]]++] = i;
  return { side, starts, order };
}

class View {
  constructor(points, canvas, over) {
    Object.assign(this, { points, canvas, over, grid: gridOf(points), shown: null, colouring: null });
    this.pen = canvas.getContext("2d", { alpha: false });
    this.overPen = over.getContext("2d");
    this.resize();
    this.fit();
  }

  /** As many pixels as the screen has. */
  resize() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width || (box.width === this.width && box.height === this.height && devicePixelRatio === this.dense)) return false;
    const [oldWidth, oldHeight] = [this.width, this.height];
    Object.assign(this, { width: box.width, height: box.height, dense: devicePixelRatio });
    for (const canvas of [this.canvas, this.over]) {
      canvas.width = Math.max(1, Math.round(box.width * this.dense));
      canvas.height = Math.max(1, Math.round(box.height * this.dense));
    }
    if (oldWidth) this.move((this.width - oldWidth) / 2, (this.height - oldHeight) / 2);
    return true;
  }

  fit() {
    const { wide, high } = this.points;
    const room = Math.min(28, this.width / 12);
    this.scale = this.whole = Math.min((this.width - 2 * room) / wide, (this.height - 2 * room) / high);
    this.left = (this.width - wide * this.scale) / 2;
    this.top = (this.height - high * this.scale) / 2;
  }

  move(dx, dy) {
    this.left += dx;
    this.top += dy;
  }

  zoom(times, x = this.width / 2, y = this.height / 2) {
    const scale = inside(this.scale * times, this.whole / 2, this.whole * 400);
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
  }

  place(i) {
    return [this.points.u[i] * this.scale + this.left, this.points.v[i] * this.scale + this.top];
  }

  /** Bring a point into sight. */
  reveal(i) {
    const [x, y] = this.place(i);
    if (x > 0 && y > 0 && x < this.width && y < this.height) return false;
    this.move(this.width / 2 - x, this.height / 2 - y);
    return true;
  }

  radius() {
    const many = Math.log10(Math.max(this.points.count, 10));
    return inside(5.6 - 0.85 * many, 1.3, 4.2) * Math.min((this.scale / this.whole) ** 0.3, 3);
  }

  /** A disc with soft edges: how much of each pixel around a point it covers, of 256. */
  disc() {
    const radius = this.radius() * this.dense;
    const reach = Math.ceil(radius);
    const cover = this.points.count > 20000 ? 190 : 225;
    const disc = [];
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const share = inside(radius + 0.5 - Math.hypot(dx, dy), 0, 1);
        if (share > 0.04) disc.push([dx, dy, Math.round(cover * share)]);
      }
    }
    return { reach, disc };
  }

  draw(face) {
    const { canvas, pen, shown } = this;
    const image = pen.createImageData(canvas.width, canvas.height);
    const [red, green, blue] = face.paper;
    new Uint32Array(image.data.buffer).fill(((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0);
    const stamp = this.disc();
    if (shown) this.stamp(image, stamp, (i) => !shown[i], () => face.ghost, 0.35);
    const { index, colours } = this.colouring;
    this.stamp(image, stamp, shown && ((i) => shown[i]), (i) => colours[index[i]], 1);
    pen.putImageData(image, 0, 0);
    this.drawLabels(face);
  }

  stamp(image, { reach, disc }, wanted, colourOf, strength) {
    const { data, width, height } = image;
    const { u, v, count } = this.points;
    const [scale, left, top] = [this.scale, this.left, this.top].map((value) => value * this.dense);
    const offsets = Int32Array.from(disc, ([dx, dy]) => 4 * (dy * width + dx));
    const covers = Int32Array.from(disc, ([, , cover]) => cover * strength);
    for (let i = 0; i < count; i++) {
      if (wanted && !wanted(i)) continue;
      const x = Math.round(u[i] * scale + left);
      const y = Math.round(v[i] * scale + top);
      if (x < reach || y < reach || x >= width - reach || y >= height - reach) continue;
      const [red, green, blue] = colourOf(i);
      const at = 4 * (y * width + x);
      for (let j = 0; j < offsets.length; j++) {
        const o = at + offsets[j];
        const cover = covers[j];
        data[o] += ((red - data[o]) * cover) >> 8;
        data[o + 1] += ((green - data[o + 1]) * cover) >> 8;
        data[o + 2] += ((blue - data[o + 2]) * cover) >> 8;
      }
    }
  }

  /** Labels in their order; one that would lie on another is left out until there is room. */
  drawLabels(face) {
    const { pen } = this;
    pen.setTransform(this.dense, 0, 0, this.dense, 0, 0);
    Object.assign(pen, { font: `600 12.5px ${face.font}`, textAlign: "center", textBaseline: "middle", lineJoin: "round" });
    const taken = [];
    for (const { u, v, words } of this.points.labels) {
      const half = pen.measureText(words).width / 2 + 5;
      const x = u * this.scale + this.left;
      const y = Math.max(v * this.scale + this.top - 16, 9); // above what it names, which it would hide
      if (x < -half || y < -9 || x > this.width + half || y > this.height + 9) continue;
      const at = this.width > 2 * half ? inside(x, half, this.width - half) : x;
      if (taken.some(([a, b, c]) => Math.abs(a - at) < c + half && Math.abs(b - y) < 19)) continue;
      taken.push([at, y, half]);
      Object.assign(pen, { lineWidth: 4, strokeStyle: css(face.paper), fillStyle: face.ink });
      pen.strokeText(words, at, y);
      pen.fillText(words, at, y);
    }
  }

  /** Draw what changes with every move of the pointer: rings around points, and the lasso. */
  drawOver(face, rings, lasso) {
    const pen = this.overPen;
    pen.setTransform(this.dense, 0, 0, this.dense, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    for (const i of rings) {
      const [x, y] = this.place(i);
      for (const [lineWidth, strokeStyle] of [[5, css(face.paper)], [2.2, face.ink]]) {
        Object.assign(pen, { lineWidth, strokeStyle });
        pen.beginPath();
        pen.arc(x, y, this.radius() + 4, 0, 7);
        pen.stroke();
      }
    }
    if (lasso.length < 2) return;
    pen.beginPath();
    for (const [x, y] of lasso) pen.lineTo(x, y);
    pen.closePath();
    Object.assign(pen, { lineWidth: 1.5, strokeStyle: face.ink, fillStyle: "rgb(86 180 233 / .18)" });
    pen.fill();
    pen.stroke();
  }

  /** The nearest point that is shown within so many pixels, or -1. */
  nearest(x, y, reach) {
    const { side, starts, order } = this.grid;
    const [u, v, r] = [(x - this.left) / this.scale, (y - this.top) / this.scale, reach / this.scale];
    const cell = (value) => inside(Math.floor(value * side), 0, side - 1);
    let [best, least] = [-1, r * r];
    for (let row = cell(v - r); row <= cell(v + r); row++) {
      const [from, to] = [starts[row * side + cell(u - r)], starts[row * side + cell(u + r) + 1]];
      for (let j = from; j < to; j++) {
        const i = order[j];
        const far = (this.points.u[i] - u) ** 2 + (this.points.v[i] - v) ** 2;
        if (far <= least && (!this.shown || this.shown[i])) [best, least] = [i, far];
      }
    }
    return best;
  }

  /** The points inside a line that closes on itself, of those that are shown. */
  within(lasso) {
    const line = lasso.map(([x, y]) => [(x - this.left) / this.scale, (y - this.top) / this.scale]);
    const { u, v, count } = this.points;
    const rows = [];
    const [us, vs] = [line.map(([a]) => a), line.map(([, b]) => b)];
    const [west, east, north, south] = [Math.min(...us), Math.max(...us), Math.min(...vs), Math.max(...vs)];
    for (let i = 0; i < count; i++) {
      if (u[i] < west || u[i] > east || v[i] < north || v[i] > south || (this.shown && !this.shown[i])) continue;
      let odd = false;
      for (let j = 0, k = line.length - 1; j < line.length; k = j++) {
        const [[xj, yj], [xk, yk]] = [line[j], line[k]];
        if (yj > v[i] !== yk > v[i] && u[i] < ((xk - xj) * (v[i] - yj)) / (yk - yj) + xj) odd = !odd;
      }
      if (odd) rows.push(i);
    }
    return rows;
  }
}
