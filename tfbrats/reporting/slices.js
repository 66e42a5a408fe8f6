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
    const reference = new Uint8Array(values.length), prediction = new Uint8Array(values.length);
    for (let n = 0; n < values.length; n++) {
      const pair = Math.round(values[n] / step);
      if (Math.abs(values[n] - step * pair) > 2) throw new Error("This browser changes what a page reads back from a picture.");
      reference[n] = Math.floor(pair / pairs);
      prediction[n] = pair % pairs;
    }
    return { reference, prediction };
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

  const asCanvas = (width, height, colour) => {
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d"), picture = context.createImageData(width, height);
    for (let n = 0; n < width * height; n++) {
      const [red, green, blue, alpha] = colour(n);
      picture.data.set([red, green, blue, alpha], 4 * n);
    }
    context.putImageData(picture, 0, 0);
    return canvas;
  };

  // Each tissue's border along the edges of its voxels, drawn on its own side of them.
  const contours = (context, { plane, width, height }, sx, sy, line) => {
    const inset = line / 2;
    for (const [tissue, colour] of Object.entries(tissues)) {
      const value = Number(tissue), is = (x, y) => x >= 0 && y >= 0 && x < width && y < height && plane[y * width + x] === value;
      context.beginPath();
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          if (plane[y * width + x] !== value) continue;
          const [left, right, top, bottom] = [x * sx, (x + 1) * sx, y * sy, (y + 1) * sy];
          const edge = (x0, y0, x1, y1) => { context.moveTo(x0, y0); context.lineTo(x1, y1); };
          if (!is(x - 1, y)) edge(left + inset, top, left + inset, bottom);
          if (!is(x + 1, y)) edge(right - inset, top, right - inset, bottom);
          if (!is(x, y - 1)) edge(left, top + inset, right, top + inset);
          if (!is(x, y + 1)) edge(left, bottom - inset, right, bottom - inset);
        }
      }
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.stroke();
    }
  };

  class Case {
    constructor(root) {
      this.root = root;
      this.shown = JSON.parse(root.querySelector("script").textContent);
      this.at = [...this.shown.at];
      this.mm = this.shown.spacing.map((side, axis) => side * this.shown.every[axis]);
      this.scans = {};
      this.rows = [...root.querySelectorAll("[data-axis]")];
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
      const inside = inRegion[this.region];
      for (const row of this.rows) {
        const axis = Number(row.dataset.axis), plane = planes[axis], { number, of, mm } = this.place(axis);
        const cuts = Object.fromEntries(Object.entries({ grey: this.scans[this.scan], reference: this.reference, prediction: this.prediction })
          .map(([name, values]) => [name, cut(values, this.shown.size, axis, this.at[axis])]));
        row.querySelector("input[type=range]").value = this.at[axis];
        row.querySelector("output").textContent = `slice ${number} of ${of}, ${mm} mm ${plane.beyond} the first`;
        for (const canvas of row.querySelectorAll(".view")) {
          const kind = canvas.dataset.kind;
          this.panel(canvas, kind, axis, cuts, inside, `${plane.name} ${number} of ${of}, ${mm} mm`);
          const what = kind === "bare" ? this.scan : kind === "difference" ? `difference of ${this.region} on ${this.scan}` : `${kind} on ${this.scan}`;
          canvas.nextElementSibling.textContent = what;
          canvas.setAttribute("aria-label", `${this.root.dataset.case}, ${plane.name} slice ${number} of ${of}: ${what}`);
        }
        this.strip(row.querySelector(".errors"), axis, inside);
      }
    }

    panel(canvas, kind, axis, { grey, reference, prediction }, inside, words) {
      const [u, v] = [0, 1, 2].filter((other) => other !== axis), { width, height } = grey, ratio = window.devicePixelRatio || 1;
      const wide = canvas.clientWidth, scale = (wide - 2 * AIR.side) / (width * this.mm[u]), high = height * this.mm[v] * scale + AIR.top + AIR.bottom;
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round(high * ratio);
      const context = canvas.getContext("2d"), size = [scale * this.mm[u], scale * this.mm[v]];
      canvas.placed = { left: AIR.side, top: AIR.top, size, u, v, height };
      context.scale(ratio, ratio);
      context.fillRect(0, 0, wide, high);
      context.save();
      context.translate(AIR.side, AIR.top);
      const extent = [width * size[0], height * size[1]], dim = kind === "difference" ? difference.dimmed : 1;
      context.imageSmoothingQuality = "high";
      context.drawImage(asCanvas(width, height, (n) => [dim * grey.plane[n], dim * grey.plane[n], dim * grey.plane[n], 255]), 0, 0, ...extent);
      if (kind === "reference" || kind === "prediction") {
        contours(context, kind === "reference" ? reference : prediction, ...size, Math.max(1, Math.min(1.6, size[0] / 2)));
      } else if (kind === "difference") {
        context.imageSmoothingEnabled = false; // a label is a voxel, with sharp borders
        const colours = Object.fromEntries(["found", "missed", "false"].map((name) => [name, [...rgb(difference.colours[name]), 255 * difference.opacity[name]]]));
        const colour = (n) => colours[kindOf(inside, reference.plane[n], prediction.plane[n])] ?? [0, 0, 0, 0];
        context.drawImage(asCanvas(width, height, colour), 0, 0, ...extent);
      }
      context.restore();
      this.mark(context, axis, wide, high, size, words);
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
    strip(canvas, axis, inside) {
      const key = `${axis} ${this.region}`, ratio = window.devicePixelRatio || 1;
      this.wrong ??= {};
      this.wrong[key] ??= this.count(axis, inside);
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

    count(axis, inside) {
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
