"use strict";

const read = (id) => JSON.parse(document.getElementById(id).textContent);

/* Named one by one: plotly's own choice has one that would send the data away. */
const BUTTONS = [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]];

function drawPlots() {
  const plots = read("plots");
  for (const place of document.querySelectorAll("[data-plot]")) {
    const { data, layout } = plots[place.dataset.plot];
    Plotly.newPlot(place, data, layout, { responsive: true, displaylogo: false, modeBarButtons: BUTTONS });
    offerDownloads(place, data);
  }
}

/* Figures as SVG, and their numbers as CSV. */
function offerDownloads(place, data) {
  const name = place.dataset.plot;
  const row = Object.assign(document.createElement("div"), { className: "downloads" });
  const add = (text, act) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    button.addEventListener("click", act);
    row.appendChild(button);
  };
  add("SVG", () => Plotly.downloadImage(place, { format: "svg", filename: name, width: 900, height: place.clientHeight }));
  add("CSV", () => save(name + ".csv", plotAsCsv(data)));
  place.after(row);
}

function plotAsCsv(data) {
  const rows = [["curve", "x", "y", "value"]];
  for (const trace of data) {
    if (trace.hoverinfo === "skip") continue;
    const name = trace.name || trace.type;
    if (trace.z) trace.z.forEach((line, row) => line.forEach((value, column) => rows.push([name, trace.x[column], trace.y[row], value])));
    else trace.x.forEach((x, place) => rows.push([name, x, trace.y[place], (trace.customdata || trace.text || [])[place]]));
  }
  return asCsv(rows);
}

function asCsv(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

function offerTables() {
  for (const button of document.querySelectorAll("[data-table]"))
    button.addEventListener("click", () => {
      const rows = [...document.querySelectorAll("#" + button.dataset.table + " tr")];
      save(button.dataset.table + ".csv", asCsv(rows.map((row) => [...row.cells].map((one) => one.textContent.trim()))));
    });
}

const CHAINS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7b5ea7", "#8c6d31", "#5f8f5f"];
const RAMP = ["#3b4cc0", "#7b9ff9", "#c0d4f5", "#f2cbb7", "#ee8468", "#b40426"];
const PLDDT = [[90, "#0053d6", "above 90"], [70, "#65cbf3", "70 to 90"], [50, "#ffdb13", "50 to 70"], [-1, "#ff7d45", "below 50"]];
const UNKNOWN = "#b8bdc4";
/* Å, at which the colours of errors end: neighbours cannot be told apart. */
const MOST_ERROR = 3;

function onRamp(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  const part = (colour, channel) => parseInt(colour.slice(1 + 2 * channel, 3 + 2 * channel), 16);
  const mixed = [0, 1, 2].map((c) => Math.round(part(RAMP[low], c) + (at - low) * (part(RAMP[low + 1], c) - part(RAMP[low], c))));
  return "rgb(" + mixed.join(",") + ")";
}

class Stage {
  constructor(element) {
    this.content = read("molecules");
    this.residues = new Map(this.content.residues.map((residue) => [residue.place, residue]));
    this.colour = "moved";
    this.shown = { start: true, density: false, atoms: false };
    this.viewer = $3Dmol.createViewer(element, { backgroundColor: "white", antialias: true });
    this.start = this.viewer.addModel(this.content.start, "cif");
    this.result = this.viewer.addModel(this.content.result, "cif");
    this.#rememberPositions();
    this.#nameResidues();
    this.#style();
    this.resetView();
  }

  setColour(name) {
    this.colour = name;
    this.#style();
    this.viewer.render();
  }

  toggle(name) {
    this.shown[name] = !this.shown[name];
    if (name === "density") this.#toggleDensity();
    else this.#style();
    this.viewer.render();
    return this.shown[name];
  }

  /* Atoms of the result on the straight line from where they started, at 0, to where they are, at 1. */
  moveTo(share) {
    for (const [atom, from, to] of this.ways)
      for (const axis of ["x", "y", "z"]) atom[axis] = from[axis] + share * (to[axis] - from[axis]);
    this.#style();
    this.viewer.render();
  }

  resetView() {
    this.viewer.zoomTo();
    this.viewer.zoom(1.25);
    this.viewer.render();
  }

  #rememberPositions() {
    const key = (atom) => atom.resi + " " + atom.atom;
    const before = new Map(this.start.selectedAtoms({}).map((atom) => [key(atom), { x: atom.x, y: atom.y, z: atom.z }]));
    this.ways = this.result
      .selectedAtoms({})
      .filter((atom) => before.has(key(atom)))
      .map((atom) => [atom, before.get(key(atom)), { x: atom.x, y: atom.y, z: atom.z }]);
  }

  #colourOf(place) {
    const residue = this.residues.get(place);
    if (!residue) return UNKNOWN;
    if (this.colour === "chain") return CHAINS[residue.chain % CHAINS.length];
    const value = residue[this.colour];
    if (value === null) return UNKNOWN;
    if (this.colour === "plddt") return PLDDT.find(([least]) => value > least)[1];
    if (this.colour === "error") return onRamp(value / MOST_ERROR);
    return onRamp(value / this.content.most_moved);
  }

  #style() {
    const coloured = { colorfunc: (atom) => this.#colourOf(atom.resi) };
    this.result.setStyle({}, { cartoon: coloured });
    this.result.setStyle({ hetflag: true }, { stick: { radius: 0.22, ...coloured }, sphere: { scale: 0.28, ...coloured } }, true);
    if (this.shown.atoms) this.result.setStyle({ hetflag: false }, { stick: { radius: 0.12, ...coloured } }, true);
    const grey = { color: "#8f959d", opacity: 0.55 };
    this.start.setStyle({}, this.shown.start ? { cartoon: grey } : {});
    if (this.shown.start) this.start.setStyle({ hetflag: true }, { stick: { radius: 0.16, ...grey } }, true);
  }

  #nameResidues() {
    const picked = document.getElementById("picked");
    const describe = (atom) => {
      const residue = this.residues.get(atom.resi);
      if (!residue) return;
      const parts = [residue.name + ", chain " + this.content.chains[residue.chain]];
      if (residue.moved !== null) parts.push("moved " + residue.moved.toFixed(2) + " Å");
      if (residue.error !== null) parts.push("error " + residue.error.toFixed(2) + " Å");
      if (residue.plddt !== null) parts.push("pLDDT " + residue.plddt.toFixed(0));
      picked.textContent = parts.join("; ");
    };
    this.result.setHoverable({}, true, describe, () => {});
  }

  #toggleDensity() {
    if (this.contour) {
      this.viewer.removeShape(this.contour);
      this.contour = null;
      return;
    }
    const { bytes, size, origin, voxel, level } = this.content.density;
    const grid = new $3Dmol.VolumeData("", "given below");
    const axes = ([x, y, z]) => ({ x, y, z });
    Object.assign(grid, { size: axes(size), origin: axes(origin), unit: axes(voxel) });
    grid.data = Float32Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
    this.contour = this.viewer.addIsosurface(grid, { isoval: level, color: "#6b8fb5", opacity: 0.35, smoothness: 1 });
  }
}

function showLegend(stage) {
  const legend = document.getElementById("legend");
  legend.replaceChildren();
  const add = (text) => legend.appendChild(Object.assign(document.createElement("span"), { textContent: text }));
  const swatch = (colour, text) => {
    const mark = Object.assign(document.createElement("span"), { className: "swatch" });
    mark.style.background = colour;
    add(text).prepend(mark);
  };
  if (stage.colour === "moved" || stage.colour === "error") {
    add(stage.colour + ": 0 Å");
    const ramp = Object.assign(document.createElement("span"), { className: "ramp" });
    ramp.style.background = "linear-gradient(to right, " + RAMP.join(",") + ")";
    legend.appendChild(ramp);
    add((stage.colour === "error" ? MOST_ERROR : stage.content.most_moved).toFixed(1) + " Å and more");
  } else if (stage.colour === "plddt") {
    add("pLDDT");
    for (const [, colour, text] of PLDDT) swatch(colour, text);
  } else {
    stage.content.chains.forEach((name, order) => swatch(CHAINS[order % CHAINS.length], "chain " + name));
  }
  swatch("#8f959d", "start");
}

function connect(stage) {
  const press = (button, state) => button.setAttribute("aria-pressed", String(state));
  const colours = [...document.querySelectorAll("[data-colour]")];
  for (const button of colours)
    button.addEventListener("click", () => {
      for (const other of colours) press(other, other === button);
      stage.setColour(button.dataset.colour);
      showLegend(stage);
    });
  for (const name of ["start", "density", "atoms"]) {
    const button = document.getElementById("show-" + name);
    if (button) button.addEventListener("click", () => press(button, stage.toggle(name)));
  }
  document.getElementById("morph").addEventListener("input", (event) => stage.moveTo(Number(event.target.value)));
  document.getElementById("reset-view").addEventListener("click", () => stage.resetView());
}

function copyTexts() {
  for (const button of document.querySelectorAll("[data-copy]"))
    button.addEventListener("click", () => {
      document.getElementById(button.dataset.copy).select();
      /* The newer clipboard interface is not there for pages opened as files in every browser. */
      button.textContent = document.execCommand("copy") ? "copied" : "press Ctrl+C";
    });
}

function hasWebGL() {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
}

copyTexts();
offerTables();
drawPlots();
if (hasWebGL()) {
  const stage = new Stage(document.getElementById("viewer"));
  connect(stage);
  showLegend(stage);
} else {
  document.getElementById("picked").textContent = "This browser has no WebGL, which the molecules need.";
}
document.documentElement.dataset.ready = "true";
