"use strict";
// What the page does. NiiVue draws scan, fill and 3-D; contours, letters and scale bars are drawn over it.
(async () => {
  const element = (id) => document.getElementById(id);
  const data = JSON.parse(element("data").textContent);
  const [width, height, depth] = data.shape; // of the box along i, j, k: left, back, head
  const stage = element("stage"), marks = element("marks"), pen = marks.getContext("2d");
  const controls = element("controls").elements;
  const PLANES = ["sagittal", "coronal", "axial"]; // by the axis that they cut
  const SLICE_TYPE = { axial: 0, coronal: 1, sagittal: 2, "3d": 4 }; // NiiVue's numbers
  const LETTERS = [["R", "L"], ["A", "P"], ["I", "S"]]; // where i, j, k begin and end
  const CROSSHAIR = 0.5; // NiiVue's width
  const TISSUES_FROM_BELOW = [2, 5, 4, 1, 3]; // oedema first: what lies inside is drawn over it
  const at = data.start.map((voxel, axis) => voxel - data.low[axis]); // the crosshair, in the box
  const state = { scan: data.modalities[0], style: "contour", view: "all", opacity: 0.6,
    prediction: data.prediction, reference: data.reference };

  // --- unpacking -------------------------------------------------------------------------------------------

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(element(id).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // The inverse of eight_bit.foretold: each voxel is what its neighbours foretell and what is stored.
  function told(rest) {
    const top = data.levels - 1, greys = new Uint8Array(rest.length);
    for (let k = 0, n = 0; k < depth; k++) {
      for (let j = 0; j < height; j++) {
        for (let i = 0; i < width; i++, n++) {
          const left = i ? rest[n - 1] : 0, above = j ? rest[n - width] : 0;
          const corner = i && j ? rest[n - width - 1] : 0;
          const low = Math.min(left, above), high = Math.max(left, above);
          const guess = corner >= high ? low : corner <= low ? high : left + above - corner;
          rest[n] = (rest[n] + guess) & 255;
          greys[n] = (rest[n] * 255) / top + 0.5;
        }
      }
    }
    return greys;
  }

  // A NIfTI file of 8-bit voxels, for NiiVue to read: 348 bytes of header, 4 of none, the voxels.
  function nifti(voxels) {
    const file = new ArrayBuffer(352 + voxels.length), head = new DataView(file);
    const { affine } = data;
    head.setInt32(0, 348, true);
    [3, ...data.shape, 1, 1, 1, 1].forEach((value, n) => head.setInt16(40 + 2 * n, value, true));
    head.setInt16(70, 2, true); // uint8
    head.setInt16(72, 8, true);
    [1, ...data.spacing, 1, 1, 1, 1].forEach((value, n) => head.setFloat32(76 + 4 * n, value, true));
    head.setFloat32(108, 352, true); // where the voxels begin
    head.setFloat32(112, 1, true);
    head.setUint8(123, 2); // mm
    head.setInt16(254, 1, true); // sform counts
    for (let row = 0; row < 3; row++)
      for (let column = 0; column < 4; column++) head.setFloat32(280 + 16 * row + 4 * column, affine[row][column], true);
    [110, 43, 49, 0].forEach((value, n) => head.setUint8(344 + n, value)); // n+1
    new Uint8Array(file, 352).set(voxels);
    return file;
  }

  // --- NiiVue ----------------------------------------------------------------------------------------------

  async function started() {
    const address = URL.createObjectURL(new Blob([await unpacked("niivue")], { type: "text/javascript" }));
    const { Niivue } = await import(address);
    URL.revokeObjectURL(address);
    const nv = new Niivue({ backColor: [0, 0, 0, 1], crosshairColor: [0.95, 0.95, 0.95, 0.55], crosshairWidth: CROSSHAIR, crosshairGap: 5,
      isOrientationTextVisible: false, isRadiologicalConvention: true, sagittalNoseLeft: true, show3Dcrosshair: true,
      dragAndDropEnabled: false, loadingText: "", isColorbar: false, logLevel: "silent", multiplanarPadPixels: 2 });
    await nv.attachToCanvas(element("picture"));
    const codes = await unpacked("codes");
    await nv.loadFromArrayBuffer(nifti(await scan(state.scan)), "scan.nii");
    await nv.loadFromArrayBuffer(nifti(codes), "codes.nii");
    return { nv, codes };
  }

  const scans = {};
  async function scan(name) {
    return (scans[name] ??= told(await unpacked(`scan-${name}`)));
  }

  // What a code stands for: `data.tissues` x the reference's tissue + the prediction's.
  const predicted = (code) => code % data.tissues, expected = (code) => Math.floor(code / data.tissues);
  const bytesOf = (colour) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  const isDifference = () => state.style in data.regions;

  // The colour of a code: of its tissue, or of what is found, missed, false; none for a side that is not shown.
  function colourOf(code) {
    if (isDifference()) {
      const inside = (tissue) => data.regions[state.style].includes(tissue);
      const found = inside(predicted(code)), wanted = inside(expected(code));
      return found || wanted ? data.difference[found && wanted ? "found" : wanted ? "missed" : "false"] : null;
    }
    const tissue = (state.prediction && predicted(code)) || (state.reference && !state.prediction && expected(code));
    return tissue ? data.colours[tissue] : null;
  }

  function colour() {
    const map = { R: [], G: [], B: [], A: [], I: [] };
    for (let code = 0; code < data.tissues ** 2; code++) {
      const shade = code ? colourOf(code) : null, [r, g, b] = shade ? bytesOf(shade) : [0, 0, 0];
      map.R.push(r), map.G.push(g), map.B.push(b), map.A.push(shade ? 255 : 0), map.I.push(code);
    }
    nv.volumes[1].setColormapLabel(map);
    // In the planes alone: the 3-D view shows what is on, whether it is filled there or not.
    nv.overlayAlphaShader = state.style === "contour" ? 0 : state.opacity;
    nv.updateGLVolume();
  }

  async function showScan() {
    const volume = nv.volumes[0];
    volume.img = await scan(state.scan);
    volume.cal_min = 0;
    volume.cal_max = 255;
    nv.updateGLVolume();
  }

  function arrange() {
    const tile = (name, ...position) => ({ sliceType: SLICE_TYPE[name], position });
    const four = [tile("axial", 0, 0, 0.5, 0.5), tile("coronal", 0.5, 0, 0.5, 0.5),
      tile("sagittal", 0, 0.5, 0.5, 0.5), tile("3d", 0.5, 0.5, 0.5, 0.5)];
    nv.setCustomLayout(state.view === "all" ? four : [tile(state.view, 0, 0, 1, 1)]);
  }

  // NiiVue's place in a volume: 0 to 1 along right, front, head; it says itself how the file's axes lie to them.
  function placeOf(voxel) {
    return [...nv.volumes[0].permRAS].map((signed) => {
      const axis = Math.abs(signed) - 1, share = (voxel[axis] + 0.5) / data.shape[axis];
      return signed < 0 ? 1 - share : share;
    });
  }

  function voxelOf(place) {
    const voxel = [0, 0, 0];
    [...nv.volumes[0].permRAS].forEach((signed, n) => {
      const axis = Math.abs(signed) - 1, share = signed < 0 ? 1 - place[n] : place[n];
      voxel[axis] = Math.max(0, Math.min(data.shape[axis] - 1, Math.round(share * data.shape[axis] - 0.5)));
    });
    return voxel;
  }

  function move() {
    at.forEach((voxel, axis) => { at[axis] = Math.max(0, Math.min(data.shape[axis] - 1, voxel)); });
    nv.scene.crosshairPos = placeOf(at);
    drawn ||= requestAnimationFrame(() => { drawn = 0; nv.drawScene(); }); // a held key draws once a frame
    tell();
  }

  // --- over the planes: contours, letters, scale -------------------------------------------------------------

  // How voxels of a plane lie on the screen: [x, y] of (0, 0, 0) and what a step along each axis adds.
  function placed(tile) {
    const order = [[0, 1], [0, 2], [1, 2]][tile.axCorSag], [left, top, wide, high] = tile.leftTopWidthHeight;
    const point = (voxel) => {
      const mm = nv.frac2mm(placeOf(voxel));
      const [x, y] = order.map((axis, n) => (mm[axis] - tile.leftTopMM[n]) / tile.fovMM[n]);
      return [left + x * wide, top + (1 - y) * high];
    };
    const origin = point([0, 0, 0]);
    const steps = [0, 1, 2].map((axis) => {
      const [x, y] = point([0, 1, 2].map((other) => Number(other === axis)));
      return [x - origin[0], y - origin[1]];
    });
    return { origin, steps };
  }

  // The outlines of one tissue in a plane, through the middles of the voxels' edges; closed loops of [a, b].
  function outlines(tissueAt, tissue, sides) {
    const inside = (a, b) => a >= 0 && b >= 0 && a < sides[0] && b < sides[1] && tissueAt(a, b) === tissue;
    const next = new Map(), key = (a, b) => a * 4096 + b;
    const edge = (a, b, c, d) => {
      const list = next.get(key(a, b));
      list ? list.push([c, d]) : next.set(key(a, b), [[c, d]]);
    };
    for (let b = 0; b < sides[1]; b++) {
      for (let a = 0; a < sides[0]; a++) {
        if (!inside(a, b)) continue;
        if (!inside(a, b - 1)) edge(a, b, a + 1, b);
        if (!inside(a + 1, b)) edge(a + 1, b, a + 1, b + 1);
        if (!inside(a, b + 1)) edge(a + 1, b + 1, a, b + 1);
        if (!inside(a - 1, b)) edge(a, b + 1, a, b);
      }
    }
    const loops = [];
    while (next.size) {
      const [first] = next.keys(), loop = [];
      let here = [Math.floor(first / 4096), first % 4096];
      while (next.has(key(...here))) {
        const ways = next.get(key(...here)), there = ways.pop();
        if (!ways.length) next.delete(key(...here));
        loop.push([(here[0] + there[0]) / 2, (here[1] + there[1]) / 2]);
        here = there;
      }
      loops.push(loop);
    }
    return loops;
  }

  function drawContours(tile, axis, place, ratio) {
    const [p, q] = [0, 1, 2].filter((other) => other !== axis), stride = [1, width, width * height];
    const base = at[axis] * stride[axis];
    for (const [side, tissueOf, dashes] of [["reference", expected, [5, 4]], ["prediction", predicted, []]]) {
      const isFilled = state.style === "fill" && (side === "prediction" || !state.prediction);
      if (!state[side] || isFilled || isDifference()) continue;
      const tissueAt = (a, b) => tissueOf(codes[base + a * stride[p] + b * stride[q]]);
      for (const tissue of TISSUES_FROM_BELOW) {
        pen.beginPath();
        for (const loop of outlines(tissueAt, tissue, [data.shape[p], data.shape[q]])) {
          loop.forEach(([a, b], n) => {
            const [u, v] = [a - 0.5, b - 0.5];
            const x = place.origin[0] + u * place.steps[p][0] + v * place.steps[q][0];
            const y = place.origin[1] + u * place.steps[p][1] + v * place.steps[q][1];
            n ? pen.lineTo(x, y) : pen.moveTo(x, y);
          });
          pen.closePath();
        }
        pen.setLineDash(dashes.map((length) => length * ratio));
        pen.lineWidth = 1.6 * ratio;
        pen.strokeStyle = data.colours[tissue];
        pen.globalAlpha = state.style === "contour" ? 0.4 + 0.6 * state.opacity : 1;
        pen.stroke();
      }
    }
    pen.setLineDash([]);
    pen.globalAlpha = 1;
  }

  function write(text, x, y, align, baseline) {
    pen.textAlign = align;
    pen.textBaseline = baseline;
    pen.strokeText(text, x, y);
    pen.fillText(text, x, y);
  }

  function drawLetters(tile, axis, place, ratio) {
    const [left, top, wide, high] = tile.leftTopWidthHeight, gap = 6 * ratio;
    const middle = [left + wide / 2, top + high / 2];
    for (const other of [0, 1, 2].filter((one) => one !== axis)) {
      const [x, y] = place.steps[other], [low, far] = LETTERS[other];
      if (Math.abs(x) > Math.abs(y)) {
        write(x > 0 ? low : far, left + gap, middle[1], "left", "middle");
        write(x > 0 ? far : low, left + wide - gap, middle[1], "right", "middle");
      } else {
        write(y > 0 ? low : far, middle[0], top + gap, "center", "top");
        write(y > 0 ? far : low, middle[0], top + high - gap, "center", "bottom");
      }
    }
    const number = data.low[axis] + at[axis] + 1, [corner, bottom] = cornersOf(axis);
    const isNarrow = marks.width / (state.view === "all" ? 2 : 1) < 300 * ratio;
    write(`${PLANES[axis]} ${number}${isNarrow ? "" : ` of ${data.whole[axis]}`}`, corner[0] + gap, corner[1] + gap, "left", "top");
    const across = [0, 1, 2].filter((one) => one !== axis).find((one) => Math.abs(place.steps[one][0]) > 0);
    const pixels = Math.abs(place.steps[across][0]) / data.spacing[across]; // a mm
    const length = [50, 20, 10, 5, 1].find((mm) => mm * pixels < wide * 0.45) ?? 1;
    const y = bottom - gap - 3 * ratio, x = corner[0] + gap;
    pen.lineWidth = 2 * ratio;
    pen.strokeStyle = "#e6e9ed";
    pen.beginPath();
    pen.moveTo(x, y - 4 * ratio), pen.lineTo(x, y), pen.lineTo(x + length * pixels, y), pen.lineTo(x + length * pixels, y - 4 * ratio);
    pen.stroke();
    style(ratio);
    write(length >= 10 ? `${length / 10} cm` : `${length} mm`, x, y - 6 * ratio, "left", "bottom");
  }

  // The upper left corner of a plane's part of the stage, and its lower edge: the plane itself may be narrower.
  function cornersOf(axis) {
    const part = nv.getCustomLayout().find((one) => one.sliceType === SLICE_TYPE[PLANES[axis]]);
    const [x, y, , high] = part.position;
    return [[x * marks.width, y * marks.height], (y + high) * marks.height];
  }

  function style(ratio) {
    pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    pen.fillStyle = "#e6e9ed";
    pen.strokeStyle = "#000";
    pen.lineWidth = 3 * ratio;
    pen.lineJoin = "round";
  }

  function drawMarks() {
    const canvas = element("picture"), ratio = canvas.width / Math.max(1, canvas.clientWidth);
    if (marks.width !== canvas.width) marks.width = canvas.width;
    if (marks.height !== canvas.height) marks.height = canvas.height;
    pen.clearRect(0, 0, marks.width, marks.height);
    for (const tile of nv.screenSlices) {
      const [left, top, wide, high] = tile.leftTopWidthHeight;
      style(ratio);
      if (tile.axCorSag > 2) {
        write("3-D", left + 6 * ratio, top + 6 * ratio, "left", "top");
        continue;
      }
      const axis = 2 - tile.axCorSag, place = placed(tile);
      pen.save();
      pen.beginPath();
      pen.rect(left, top, wide, high);
      pen.clip();
      drawContours(tile, axis, place, ratio);
      pen.restore();
      style(ratio);
      drawLetters(tile, axis, place, ratio);
    }
  }

  // --- what a person does ------------------------------------------------------------------------------------

  function tell() {
    PLANES.forEach((plane, axis) => {
      const slider = element(plane);
      slider.value = data.low[axis] + at[axis] + 1;
      slider.setAttribute("aria-valuetext", `${plane} slice ${slider.value} of ${data.whole[axis]}`);
    });
    const code = codes[at[0] + width * (at[1] + height * at[2])], name = (tissue) => (tissue ? data.names[tissue] : "none");
    const mm = [0, 1, 2].map((row) => data.affine[row].slice(0, 3).reduce((sum, step, n) => sum + step * at[n], data.affine[row][3]));
    const texts = [data.titles[state.scan] ?? state.scan, `voxel ${at.map((voxel, axis) => voxel + data.low[axis]).join(", ")} from 0`,
      `${mm.map((value) => value.toFixed(0)).join(", ")} mm`];
    if (data.prediction) texts.push(`prediction ${name(predicted(code))}`);
    if (data.reference) texts.push(`reference ${name(expected(code))}`);
    clearTimeout(tell.later); // what is read aloud is the place where one stops
    tell.later = setTimeout(() => { element("where").textContent = texts.join(" · "); }, 60);
  }

  async function changed() {
    const before = { ...state };
    state.scan = controls.scan.value;
    state.view = controls.view.value;
    nv.opts.crosshairWidth = controls.crosshair.checked ? CROSSHAIR : 0;
    nv.opts.show3Dcrosshair = controls.crosshair.checked;
    for (const side of ["prediction", "reference"]) if (controls[side]) state[side] = controls[side].checked;
    if (controls.style) {
      state.style = controls.style.value;
      state.opacity = controls.opacity.value / 100;
      const differences = element("differences");
      if (differences) differences.hidden = !isDifference(), element("tissues").hidden = isDifference();
    }
    if (before.scan !== state.scan) await showScan();
    if (before.view !== state.view) arrange();
    colour();
    tell();
  }

  function choose(name, value) {
    if (!controls[name]) return;
    controls[name].value = value;
    changed();
  }

  function toggle(side) {
    if (!controls[side]) return;
    controls[side].checked = !controls[side].checked;
    changed();
  }

  function following(values, value) {
    return values[(values.indexOf(value) + 1) % values.length];
  }

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, -1], ArrowDown: [1, 1], PageUp: [2, 1], PageDown: [2, -1] };
    const move1 = moves[event.key], scanName = data.modalities[Number(event.key) - 1];
    const letters = { p: () => toggle("prediction"), r: () => toggle("reference"), c: () => choose("style", "contour"),
      f: () => choose("style", "fill"), x: () => toggle("crosshair"), v: () => choose("view", following(["all", "axial", "coronal", "sagittal", "3d"], state.view)),
      d: () => data.prediction && data.reference && choose("style", following(Object.keys(data.regions), state.style)) };
    const act = letters[event.key.toLowerCase()];
    if (move1 && state.view === "3d" && move1[0] < 2) {
      const [axis, step] = move1;
      const turned = [nv.scene.renderAzimuth, nv.scene.renderElevation];
      turned[axis] += 5 * far * step;
      nv.setRenderAzimuthElevation(...turned);
    } else if (move1) {
      at[move1[0]] += far * move1[1];
      move();
    } else if (scanName) choose("scan", scanName);
    else if (act) act();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  async function begin() {
    ({ nv, codes } = await started());
    arrange();
    const draw = nv.drawScene.bind(nv);
    nv.drawScene = (...more) => {
      const result = draw(...more);
      drawMarks();
      return result;
    };
    nv.onLocationChange = () => {
      voxelOf(nv.scene.crosshairPos).forEach((voxel, axis) => { at[axis] = voxel; });
      tell();
    };
    PLANES.forEach((plane, axis) => {
      const slider = element(plane);
      slider.min = data.low[axis] + 1;
      slider.max = data.low[axis] + data.shape[axis];
      slider.addEventListener("input", () => {
        at[axis] = slider.value - 1 - data.low[axis];
        move();
      });
    });
    stage.addEventListener("keydown", pressed, true); // before NiiVue's own keys
    stage.addEventListener("keyup", (event) => event.stopPropagation(), true);
    element("controls").addEventListener("input", changed);
    for (const button of document.querySelectorAll("button[data-voxel]"))
      button.addEventListener("click", () => {
        button.dataset.voxel.split(",").forEach((voxel, axis) => { at[axis] = voxel - data.low[axis]; });
        move();
      });
    nv.volumes[0].cal_min = 0;
    nv.volumes[0].cal_max = 255;
    nv.setInterpolation(false);
    colour();
    move();
    element("loading").remove();
    for (const name of data.modalities) await scan(name); // so that a switch takes no time
    window.viewer = { nv, at, state, milliseconds: performance.now() - begun };
    document.body.dataset.ready = "yes";
  }

  let nv, codes, drawn = 0;
  const begun = performance.now();
  try {
    await begin();
  } catch (error) {
    const message = element("loading") ?? stage.appendChild(document.createElement("p"));
    message.textContent = `This browser cannot draw the viewer (${error.message}). It needs WebGL 2.`;
    throw error;
  }
})();
