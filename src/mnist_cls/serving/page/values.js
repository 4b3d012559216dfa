// Tensors, {shape, data} with data a Float32Array, and the colours of their values.

/** Convert a flat index to an index in a tensor of this shape. */
export function unravel(flat, shape) {
  const index = [];
  for (const size of [...shape].reverse()) {
    index.unshift(flat % size);
    flat = Math.floor(flat / size);
  }
  return index;
}

export function number(value) {
  if (value === null || !Number.isFinite(value)) return value === null ? "not finite" : String(value);
  const text = Math.abs(value) >= 1e-4 && Math.abs(value) < 1e5 ? String(+value.toPrecision(4)) : value.toExponential(2);
  return value === 0 ? "0" : text.replace("-", "−");
}

/** A probability. No network is certain, so rounding never makes it 100 %. */
export const percent = (fraction) => (fraction > 0.9999 ? "> 99.99 %" : `${(100 * fraction).toFixed(2)} %`);

/** The largest magnitude of the finite values; 1 if all are zero. */
export function magnitude(data) {
  let largest = 0;
  for (const value of data) {
    const size = Math.abs(value);
    if (size > largest && size < Infinity) largest = size;
  }
  return largest || 1;
}

const SHADES = 255;
const POSITIVE = [220, 38, 38];
const NEGATIVE = [37, 99, 235];
const NOT_FINITE = 0xff00d7ff; // yellow: 255, 215, 0

let palette = makePalette();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (palette = makePalette()));

function makePalette() {
  const zero = getComputedStyle(document.documentElement).getPropertyValue("--zero").trim().split(" ").map(Number);
  const colours = new Uint32Array(2 * SHADES + 1);
  for (let shade = -SHADES; shade <= SHADES; shade++) {
    const full = shade < 0 ? NEGATIVE : POSITIVE;
    const part = Math.abs(shade) / SHADES;
    const [red, green, blue] = zero.map((base, channel) => Math.round(base + (full[channel] - base) * part));
    colours[shade + SHADES] = (255 << 24) | (blue << 16) | (green << 8) | red;
  }
  return colours;
}

/** The colour of a value, as a little-endian RGBA pixel. */
export function colour(value, largest) {
  if (!Number.isFinite(value)) return NOT_FINITE;
  return palette[Math.round((value / largest) * SHADES) + SHADES];
}

/** The grey of a pixel: white on black, as in MNIST. */
export function grey(value, largest) {
  const level = Math.round((255 * value) / largest);
  return (255 << 24) | (level << 16) | (level << 8) | level;
}

/** Colours of a table's cell: its background, and black or white text, whichever has more contrast. */
export function cellColours(value, largest) {
  const pixel = colour(value, largest);
  const rgb = [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255];
  const [r, g, b] = rgb.map((part) => {
    const x = part / 255;
    return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return { background: `rgb(${rgb.join(" ")})`, text: luminance > 0.179 ? "#000" : "#fff" };
}
