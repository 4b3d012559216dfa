// The values of one operation as pictures: feature maps side by side, or a vector as rows of squares.

import { make } from "./dom.js";
import { colour, magnitude, unravel } from "./values.js";

// Sides of a vector's squares: [maximum number of values, pixels].
const SQUARES = [
  [16, 28],
  [256, 10],
  [Infinity, 5],
];
// Approximate side of a feature map: [maximum number of maps, pixels].
const MAP_SIZES = [
  [32, 56],
  [64, 40],
  [Infinity, 28],
];

// Sheets out of view are painted only when they are about to come into view.
const sheets = new WeakMap();
const sight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) sheets.get(target).isInSight = isIntersecting;
  },
  { rootMargin: "300px" },
);

/**
 * A canvas whose values can be selected with the pointer or the arrow keys.
 *
 * `onUnit(index, isKept)` is called with the index of the selected value in the tensor: `isKept` unless the pointer
 * only moved over it.
 */
export class Sheet {
  constructor(label, onUnit) {
    this.canvas = make("canvas", { tabindex: "0", role: "application", "aria-label": label });
    this.marks = make("canvas", { "aria-hidden": "true" });
    this.element = make("div", { class: "sheet" }, this.canvas, this.marks);
    this.onUnit = onUnit;
    this.flat = 0;
    this.isSeen = false;
    sheets.set(this.canvas, this);
    sight.observe(this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.walk(event));
    this.canvas.addEventListener("focus", () => {
      if (this.canvas.matches(":focus-visible")) this.choose(Math.min(this.flat, this.tensor.data.length - 1), true);
    });
  }

  /** Paint a tensor at most `room` pixels wide; `colours(value, largest)` returns the colour of a value. */
  paint(tensor, room, colours = colour) {
    const { shape, data } = tensor;
    this.tensor = tensor;
    this.colours = colours;
    const isMap = shape.length > 2;
    const [height, width] = isMap ? shape.slice(-2) : [1, 1];
    const count = data.length / (height * width || 1);
    const size = (isMap ? MAP_SIZES : SQUARES).find(([most]) => count <= most)[1];
    this.scale = isMap ? Math.max(1, Math.round(size / Math.max(height, width, 7))) : size;
    this.gap = isMap && count > 1 ? 1 : 0;
    const most = Math.max(1, Math.floor(room / ((width + this.gap) * this.scale)));
    this.columns = Math.max(1, Math.min(count, most, isMap || count <= 256 ? 64 : 256));
    this.cell = { width, height };
    const rows = Math.max(1, Math.ceil(count / this.columns));
    const sheetWidth = this.columns * (width + this.gap) - this.gap;
    const sheetHeight = rows * (height + this.gap) - this.gap;
    if (this.canvas.width !== sheetWidth || this.canvas.height !== sheetHeight) {
      this.canvas.width = sheetWidth;
      this.canvas.height = sheetHeight;
      for (const canvas of [this.canvas, this.marks]) {
        canvas.style.width = `${sheetWidth * this.scale}px`;
        canvas.style.height = `${sheetHeight * this.scale}px`;
      }
      this.marks.width = sheetWidth * this.scale;
      this.marks.height = sheetHeight * this.scale;
    }
    if (this.isSeen) this.fill();
  }

  set isInSight(isInSight) {
    if (isInSight && !this.isSeen && this.tensor) this.fill();
    this.isSeen = isInSight;
  }

  /** Paint the values. */
  fill() {
    const { data } = this.tensor;
    const { width, height } = this.cell;
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(this.canvas.width, this.canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const largest = magnitude(data);
    for (let flat = 0; flat < data.length; ) {
      const [left, top] = this.corner(flat / (width * height));
      for (let y = 0; y < height; y++) {
        const start = (top + y) * this.canvas.width + left;
        for (let x = 0; x < width; x++) pixels[start + x] = this.colours(data[flat++], largest);
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** Left and top of a map in the sheet, in values. */
  corner(map) {
    const { width, height } = this.cell;
    return [(map % this.columns) * (width + this.gap), Math.floor(map / this.columns) * (height + this.gap)];
  }

  point(event) {
    const { width, height } = this.cell;
    const x = Math.floor(event.offsetX / this.scale);
    const y = Math.floor(event.offsetY / this.scale);
    const column = Math.floor(x / (width + this.gap));
    const map = Math.floor(y / (height + this.gap)) * this.columns + column;
    const [left, top] = this.corner(map);
    const flat = map * width * height + (y - top) * width + (x - left);
    if (x - left < width && y - top < height && column < this.columns && flat < this.tensor.data.length) {
      const isClick = event.type === "pointerdown";
      if (isClick || flat !== this.flat || !this.isMarked) this.choose(flat, isClick);
    }
  }

  walk(event) {
    const { width, height } = this.cell;
    const size = width * height;
    const x = this.flat % width;
    const y = Math.floor((this.flat % size) / width);
    const moves = {
      ArrowRight: x < width - 1 ? 1 : size - x,
      ArrowLeft: x > 0 ? -1 : width - 1 - size,
      ArrowDown: y < height - 1 ? width : this.columns * size - y * width,
      ArrowUp: y > 0 ? -width : (height - 1) * width - this.columns * size,
      PageDown: size,
      PageUp: -size,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const flat = this.flat + moves[event.key];
    if (flat >= 0 && flat < this.tensor.data.length) this.choose(flat, true);
  }

  choose(flat, isKept) {
    this.flat = flat;
    this.onUnit(unravel(flat, this.tensor.shape), isKept);
  }

  /** Outline one value, given by its flat index. */
  markValue(flat) {
    const { width, height } = this.cell;
    const within = flat % (width * height);
    const [left, top] = this.corner(Math.floor(flat / (width * height)));
    this.outline(left + (within % width), top + Math.floor(within / width), 1, 1);
  }

  /** Outline the same part of every map, given in values. It may reach over the edge. */
  markPart(row, column, height, width) {
    const [top, left] = [Math.max(0, row), Math.max(0, column)];
    const bottom = Math.min(this.cell.height, row + height);
    const right = Math.min(this.cell.width, column + width);
    for (let map = 0; map * this.cell.width * this.cell.height < this.tensor.data.length; map++) {
      const [x, y] = this.corner(map);
      this.outline(x + left, y + top, right - left, bottom - top);
    }
  }

  outline(x, y, width, height) {
    this.isMarked = true;
    const context = this.marks.getContext("2d");
    const style = getComputedStyle(this.canvas);
    const edges = [x * this.scale, y * this.scale, width * this.scale, height * this.scale];
    context.lineWidth = 3;
    context.strokeStyle = style.getPropertyValue("--paper");
    context.strokeRect(...edges);
    context.lineWidth = 1.5;
    context.strokeStyle = style.getPropertyValue("--text");
    context.strokeRect(...edges);
  }

  unmark() {
    this.isMarked = false;
    this.marks.getContext("2d").clearRect(0, 0, this.marks.width, this.marks.height);
  }
}
