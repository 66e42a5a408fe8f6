// Every slice of the pictured cases: sprites become volumes, sliders move the planes. Loads nothing.
// A browser without script, or one that falsifies what is read back from a picture, keeps the plate.
"use strict";
(() => {
  const { tissues, regions, difference, pairs, step, planes, scales } = JSON.parse(document.getElementById("shown").textContent);
  const AIR = { side: 18, top: 34, bottom: 22 }; // CSS pixels round the head, for letters and words

  // The picture's pixels, RGBA.
  const pixels = async (uri) => {
    const picture = new Image();
    picture.src = uri;
    await picture.decode();
    const canvas = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    return [context.getImageData(0, 0, canvas.width, canvas.height).data, canvas.width];
  };

  // A sprite as a volume, i fastest, then j, then k: axial slices lie side by side, `columns` in a row.
  const volume = async (uri, { size: [width, height, number], columns }) => {
    const [data, across] = await pixels(uri), values = new Uint8Array(width * height * number);
    for (let k = 0, to = 0; k < number; k++) {
      const left = (k % columns) * width, top = Math.floor(k / columns) * height;
      for (let j = 0; j < height; j++) {
        for (let i = 0, from = 4 * ((top + j) * across + left); i < width; i++, from += 4) values[to++] = data[from];
      }
    }
    return values;
  };

  const labels = async (shown) => {
    const values = await volume(shown.labels, shown);
    const reference = new Uint8Array(values.length), prediction = new Uint8Array(values.length), both = new Uint8Array(values.length);
    for (let n = 0; n < values.length; n++) {
      const pair = Math.round(values[n] / step);
      if (Math.abs(values[n] - step * pair) > 2) throw new Error("This browser changes what a page reads back from a picture.");
      both[n] = pair;
      reference[n] = Math.floor(pair / pairs);
      prediction[n] = pair % pairs;
    }
    return { reference, prediction, pairs: both };
  };

  // One plane of a volume as a radiologist looks at it: i to the right or j, the head or the front on top.
  const cut = (values, size, axis, index) => {
    const [u, v] = [0, 1, 2].filter((other) => other !== axis);
    const steps = [1, size[0], size[0] * size[1]], width = size[u], height = size[v];
    const plane = new Uint8Array(width * height);
    for (let y = 0, n = 0; y < height; y++) {
      const row = index * steps[axis] + (axis === 2 ? y : height - 1 - y) * steps[v];
      for (let x = 0; x < width; x++) plane[n++] = values[row + x * steps[u]];
    }
    return { plane, width, height };
  };

  const inRegion = Object.fromEntries(Object.entries(regions).map(([name, list]) => [name, (tissue) => list.includes(tissue)]));
  const kindOf = (inside, reference, prediction) => {
    const expected = inside(reference), predicted = inside(prediction);
    return expected ? (predicted ? "found" : "missed") : predicted ? "false" : null;
  };
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const pixel = ([red, green, blue], alpha) => ((Math.round(255 * alpha) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  const greys = (dimmed) => Uint32Array.from({ length: 256 }, (_, value) => pixel(Array(3).fill(Math.round(dimmed * value)), 1));

  // A plane as a picture of its own size: `colours` has a pixel for each of its values.
  const asCanvas = (values, width, height, colours) => {
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d"), picture = context.createImageData(width, height);
    new Uint32Array(picture.data.buffer).set(Uint32Array.from(values, (value) => colours[value]));
    context.putImageData(picture, 0, 0);
    return canvas;
  };

  // Each tissue's border along the edges of its voxels, drawn on its own side of them.
  const contours = (context, { plane, width, height }, sx, sy, line) => {
    const inset = line / 2, paths = Object.fromEntries(Object.keys(tissues).map((tissue) => [tissue, new Path2D()]));
    for (let y = 0, n = 0; y < height; y++) {
      for (let x = 0; x < width; x++, n++) {
        const value = plane[n];
        if (!value) continue;
        const [left, right, top, bottom] = [x * sx, (x + 1) * sx, y * sy, (y + 1) * sy];
        const edge = (x0, y0, x1, y1) => { paths[value].moveTo(x0, y0); paths[value].lineTo(x1, y1); };
        if (!x || plane[n - 1] !== value) edge(left + inset, top, left + inset, bottom);
        if (x === width - 1 || plane[n + 1] !== value) edge(right - inset, top, right - inset, bottom);
        if (!y || plane[n - width] !== value) edge(left, top + inset, right, top + inset);
        if (y === height - 1 || plane[n + width] !== value) edge(left, bottom - inset, right, bottom - inset);
      }
    }
    context.lineWidth = line;
    for (const [tissue, path] of Object.entries(paths)) {
      context.strokeStyle = tissues[tissue];
      context.stroke(path);
    }
  };

  // Of each pair of a reference's and a prediction's tissue, the colour that the difference has there.
  const differences = (region) => {
    const inside = inRegion[region], colours = new Uint32Array(pairs * pairs);
    for (let pair = 0; pair < colours.length; pair++) {
      const kind = kindOf(inside, Math.floor(pair / pairs), pair % pairs);
      if (kind) colours[pair] = pixel(rgb(difference.colours[kind]), difference.opacity[kind]);
    }
    return colours;
  };

  class Case {
    constructor(root) {
      this.root = root;
      this.shown = JSON.parse(root.querySelector("script").textContent);
      this.at = [...this.shown.at];
      this.mm = this.shown.spacing.map((side, axis) => side * this.shown.every[axis]);
      this.scans = {};
      this.rows = [...root.querySelectorAll("[data-axis]")];
      this.drawn = new Map(); // canvas -> what it shows without its marks, and of what that is
    }

    async start() {
      Object.assign(this, await labels(this.shown));
      await this.read();
      this.root.querySelector(".plate").hidden = true;
      this.root.querySelector(".live").hidden = false;
      for (const row of this.rows) this.listen(row, Number(row.dataset.axis));
      for (const radio of this.root.querySelectorAll("input[type=radio]")) {
        radio.addEventListener("change", async () => { await this.read(); this.draw(); });
      }
      new ResizeObserver(() => this.draw()).observe(this.root);
      this.draw();
    }

    get scan() { return this.root.querySelector(".scan :checked").value; }
    get region() { return this.root.querySelector(".region :checked").value; }
    async read() { this.scans[this.scan] ??= await volume(this.shown.scans[this.scan], this.shown); }

    listen(row, axis) {
      const slider = row.querySelector("input[type=range]");
      slider.addEventListener("input", () => { this.at[axis] = Number(slider.value); this.draw(); });
      for (const canvas of row.querySelectorAll(".view")) {
        canvas.addEventListener("click", (event) => {
          const { left, top, size: [sx, sy], u, v, height } = canvas.placed, box = canvas.getBoundingClientRect();
          const x = Math.floor((event.clientX - box.left - left) / sx), y = Math.floor((event.clientY - box.top - top) / sy);
          const within = (place, other) => Math.min(Math.max(place, 0), this.shown.size[other] - 1);
          this.at[u] = within(x, u);
          this.at[v] = within(axis === 2 ? y : height - 1 - y, v);
          this.draw();
        });
      }
    }

    place(axis) {
      const { first, every, count, spacing } = this.shown, index = first[axis] + every[axis] * this.at[axis];
      return { number: index + 1, of: count[axis], mm: Math.round(index * spacing[axis]) };
    }

    draw() {
      for (const row of this.rows) {
        const axis = Number(row.dataset.axis), plane = planes[axis], { number, of, mm } = this.place(axis);
        row.querySelector("input[type=range]").value = this.at[axis];
        row.querySelector("output").textContent = `slice ${number} of ${of}, ${mm} mm ${plane.beyond} the first`;
        for (const canvas of row.querySelectorAll(".view")) {
          const kind = canvas.dataset.kind;
          this.panel(canvas, kind, axis, `${plane.name} ${number} of ${of}, ${mm} mm`);
          const what = kind === "bare" ? this.scan : kind === "difference" ? `difference of ${this.region} on ${this.scan}` : `${kind} on ${this.scan}`;
          canvas.nextElementSibling.textContent = what;
          canvas.setAttribute("aria-label", `${this.root.dataset.case}, ${plane.name} slice ${number} of ${of}: ${what}`);
        }
        this.strip(row.querySelector(".errors"), axis);
      }
    }

    panel(canvas, kind, axis, words) {
      const [u, v] = [0, 1, 2].filter((other) => other !== axis), ratio = window.devicePixelRatio || 1;
      const { size } = this.shown, width = size[u], height = size[v], wide = canvas.clientWidth;
      if (wide <= 2 * AIR.side) return; // not laid out, as in a window without a size
      const scale = (wide - 2 * AIR.side) / (width * this.mm[u]), high = height * this.mm[v] * scale + AIR.top + AIR.bottom;
      const voxel = [scale * this.mm[u], scale * this.mm[v]];
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round(high * ratio);
      canvas.placed = { left: AIR.side, top: AIR.top, size: voxel, u, v, height };
      const of = [this.at[axis], this.scan, this.region, canvas.width].join(" ");
      if (this.drawn.get(canvas)?.of !== of) this.drawn.set(canvas, { of, picture: this.picture(canvas, kind, axis, width, height, voxel, ratio) });
      const context = canvas.getContext("2d");
      context.drawImage(this.drawn.get(canvas).picture, 0, 0);
      context.scale(ratio, ratio);
      this.mark(context, axis, wide, high, voxel, words);
    }

    // What a panel shows, without letters.
    picture(canvas, kind, axis, width, height, voxel, ratio) {
      const cutOf = (values) => cut(values, this.shown.size, axis, this.at[axis]), extent = [width * voxel[0], height * voxel[1]];
      const picture = new OffscreenCanvas(canvas.width, canvas.height), context = picture.getContext("2d");
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.scale(ratio, ratio);
      context.translate(AIR.side, AIR.top);
      context.imageSmoothingQuality = "high";
      const grey = cutOf(this.scans[this.scan]).plane, dimmed = kind === "difference" ? difference.dimmed : 1;
      context.drawImage(asCanvas(grey, width, height, greys(dimmed)), 0, 0, ...extent);
      if (kind === "reference" || kind === "prediction") {
        contours(context, cutOf(this[kind]), ...voxel, Math.max(1, Math.min(1.6, voxel[0] / 2)));
      } else if (kind === "difference") {
        context.imageSmoothingEnabled = false; // a label is a voxel, with sharp borders
        context.drawImage(asCanvas(cutOf(this.pairs).plane, width, height, differences(this.region)), 0, 0, ...extent);
      }
      return picture;
    }

    // Letters, scale and slice are part of the picture: whoever saves it has them.
    mark(context, axis, wide, high, size, words) {
      const [u, v] = [0, 1, 2].filter((other) => other !== axis), [left, right, top, bottom] = planes[axis].letters;
      const write = (text, x, y, align, colour = "#e8edf2", font = "600 12px") => {
        Object.assign(context, { font: `${font} system-ui, sans-serif`, textAlign: align, textBaseline: "middle", fillStyle: colour, lineWidth: 3, strokeStyle: "#000" });
        context.strokeText(text, x, y);
        context.fillText(text, x, y);
      };
      const middle = (AIR.top + high - AIR.bottom) / 2;
      write(left, 9, middle, "center");
      write(right, wide - 9, middle, "center");
      write(top, wide / 2, 26, "center");
      write(bottom, wide / 2, high - 10, "center");
      write(words, 6, 10, "left", "#cfd5db", "11px");
      if (this.root.dataset.simulated) write("simulated", wide - 6, wide < 230 ? high - 10 : 10, "right", "#ffd27a", "600 11px");
      const perMm = size[0] / this.mm[u], [mm, name] = scales.find(([length]) => length * perMm <= 0.42 * wide) ?? scales.at(-1);
      context.fillStyle = "#e8edf2";
      context.fillRect(6, high - 6, mm * perMm, 2);
      for (const x of [6, 5 + mm * perMm]) context.fillRect(x, high - 9, 1, 6);
      write(name, 6, high - 17, "left", "#e8edf2", "11px");
      // Where the other two planes cut this one.
      const x = AIR.side + (this.at[u] + 0.5) * size[0], row = axis === 2 ? this.at[v] : this.shown.size[v] - 1 - this.at[v];
      const y = AIR.top + (row + 0.5) * size[1];
      context.fillStyle = "#ffd27a";
      context.fillRect(x - 0.5, high - 5, 1, 5);
      context.fillRect(wide - 5, y - 0.5, 5, 1);
    }

    // Below the slider: how much of each slice is missed (up) and false (down), so that specks can be found.
    strip(canvas, axis) {
      const key = `${axis} ${this.region}`, ratio = window.devicePixelRatio || 1;
      this.wrong ??= {};
      this.wrong[key] ??= this.count(axis);
      const { missed, false: wrongly } = this.wrong[key], most = Math.max(1, ...missed, ...wrongly);
      const wide = canvas.clientWidth, high = canvas.clientHeight, context = canvas.getContext("2d");
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round(high * ratio);
      context.scale(ratio, ratio);
      const number = missed.length, thumb = 8, one = (wide - 2 * thumb) / number;
      for (const [values, colour, up] of [[missed, difference.colours.missed, true], [wrongly, difference.colours.false, false]]) {
        context.fillStyle = colour;
        values.forEach((voxels, n) => {
          const length = voxels ? Math.max(1.5, Math.sqrt(voxels / most) * (high / 2 - 1)) : 0;
          context.fillRect(thumb + n * one, up ? high / 2 - length : high / 2, Math.max(one, 1), length);
        });
      }
    }

    count(axis) {
      const inside = inRegion[this.region];
      const [I, J] = this.shown.size, number = this.shown.size[axis], counts = { missed: Array(number).fill(0), false: Array(number).fill(0) };
      for (let n = 0; n < this.reference.length; n++) {
        if (this.reference[n] === this.prediction[n]) continue;
        const kind = kindOf(inside, this.reference[n], this.prediction[n]);
        if (kind === "missed" || kind === "false") counts[kind][[n % I, Math.floor(n / I) % J, Math.floor(n / (I * J))][axis]]++;
      }
      return counts;
    }
  }

  (async () => {
    for (const root of document.querySelectorAll(".slices")) {
      try {
        await new Case(root).start();
      } catch (error) {
        root.querySelector(".note").textContent = `The slices cannot be moved here: ${error.message}`;
      }
    }
  })();
})();
