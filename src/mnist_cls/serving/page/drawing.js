// The paper: strokes drawn with mouse, finger, pen or keyboard, or a photo.

const UNIT = 254; // strokes are stored in 254ths of the paper's height, a byte for each coordinate
const END = 255; // after each stroke
const PEN = 22 / 280; // width of the pen, as a fraction of the paper's height
const PIXELS = 140; // height of the image that is sent to the server
const STEP = 8; // units that an arrow key moves the pen

export class Drawing {
  /** `onChange(isFinished)` is called whenever the picture changes; `isFinished` is false within a stroke. */
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.strokes = [];
    this.photo = null;
    this.pen = { x: UNIT / 2, y: UNIT / 2, isDown: false, isShown: false };
    canvas.addEventListener("pointerdown", (event) => this.start(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.finish());
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("blur", () => this.showPen(false));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.paint();
  }

  get isEmpty() {
    return this.strokes.length === 0 && this.photo === null;
  }

  get isWide() {
    return this.canvas.width > this.canvas.height;
  }

  /** Make room for several digits side by side, or for one. */
  set isWide(wide) {
    if (!wide && this.strokes.some((stroke) => stroke.some(([x]) => x > UNIT))) {
      this.strokes = this.strokes.map((stroke) => stroke.map(([x, y]) => [Math.round(x / 2), y]));
    }
    this.canvas.width = wide ? 2 * this.canvas.height : this.canvas.height;
    this.paint();
  }

  /** The right edge, in units. */
  get right() {
    return this.isWide ? 2 * UNIT : UNIT;
  }

  position(event) {
    const box = this.canvas.getBoundingClientRect();
    const unit = UNIT / box.height;
    const clamp = (value, most) => Math.max(0, Math.min(most, Math.round(value)));
    return [clamp((event.clientX - box.left) * unit, this.right), clamp((event.clientY - box.top) * unit, UNIT)];
  }

  start(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.showPen(false);
    this.photo = null;
    this.stroke = [this.position(event)];
    this.strokes.push(this.stroke);
    this.changed(false);
  }

  move(event) {
    if (!this.stroke || !event.isPrimary) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) {
      const [x, y] = this.position(one);
      const [lastX, lastY] = this.stroke.at(-1);
      if (Math.hypot(x - lastX, y - lastY) >= 2) this.stroke.push([x, y]);
    }
    this.changed(false);
  }

  finish() {
    if (!this.stroke) return;
    this.stroke = null;
    this.changed(true);
  }

  press(event) {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    const isUndo = event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey));
    if (event.key in moves) {
      const [x, y] = moves[event.key];
      this.pen.x = Math.max(0, Math.min(this.right, this.pen.x + x));
      this.pen.y = Math.max(0, Math.min(UNIT, this.pen.y + y));
      if (this.pen.isDown) {
        this.strokes.at(-1).push([this.pen.x, this.pen.y]);
        this.changed(true);
      }
    } else if (event.key === " ") {
      this.pen.isDown = !this.pen.isDown;
      if (this.pen.isDown) {
        this.photo = null;
        this.strokes.push([[this.pen.x, this.pen.y]]);
        this.changed(true);
      }
    } else if (isUndo) this.undo();
    else if (event.key === "Delete") this.clear();
    else return;
    event.preventDefault();
    this.showPen(true);
  }

  showPen(shown) {
    this.pen.isShown = shown;
    if (!shown) this.pen.isDown = false;
    this.paint();
  }

  undo() {
    if (this.photo) this.photo = null;
    else this.strokes.pop();
    this.pen.isDown = false;
    this.changed(true);
  }

  clear() {
    this.strokes = [];
    this.photo = null;
    this.pen.isDown = false;
    this.changed(true);
  }

  /** Replace the strokes with an image file; show its name if the browser cannot read it. */
  async take(file) {
    this.strokes = [];
    this.photo = { file, bitmap: await createImageBitmap(file).catch(() => null) };
    this.changed(true);
  }

  changed(isFinished) {
    this.paint();
    this.onChange(isFinished);
  }

  paint() {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    const colour = getComputedStyle(this.canvas).color;
    context.clearRect(0, 0, width, height);
    if (this.photo) {
      const { bitmap, file } = this.photo;
      if (bitmap) context.drawImage(bitmap, ...this.fitted(bitmap));
      else {
        context.fillStyle = colour;
        context.font = "28px system-ui";
        context.fillText(file.name, 20, height / 2, width - 40);
      }
    }
    draw(context, this.strokes, height / UNIT, colour);
    if (this.pen.isShown) {
      const size = (PEN * height) / 2;
      context.lineWidth = 4;
      context.strokeStyle = colour;
      context.beginPath();
      context.arc((this.pen.x * height) / UNIT, (this.pen.y * height) / UNIT, size, 0, 7);
      context[this.pen.isDown ? "fill" : "stroke"]();
    }
  }

  /** Left, top, width and height of a photo on the paper. */
  fitted(bitmap) {
    const { width, height } = this.canvas;
    const scale = Math.min(width / bitmap.width, height / bitmap.height);
    const size = [bitmap.width * scale, bitmap.height * scale];
    return [(width - size[0]) / 2, (height - size[1]) / 2, ...size];
  }

  /** Convert a box in the image of `image()` to the canvas: left, top, right, bottom; null if the photo is not shown. */
  onCanvas(box) {
    if (!this.photo) return box.map((value) => (value * this.canvas.height) / PIXELS);
    if (!this.photo.bitmap) return null;
    const [left, top, width] = this.fitted(this.photo.bitmap);
    const scale = width / this.photo.bitmap.width;
    return box.map((value, index) => value * scale + (index % 2 ? top : left));
  }

  /** The picture as an image file. With a box, that part and a margin; null if the browser cannot read the photo. */
  async image(box) {
    if (this.photo && !box) return this.photo.file;
    if (this.photo && !this.photo.bitmap) return null;
    let whole = this.photo?.bitmap;
    if (!whole) {
      whole = new OffscreenCanvas(this.isWide ? 2 * PIXELS : PIXELS, PIXELS);
      const context = whole.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(0, 0, whole.width, whole.height);
      draw(context, this.strokes, PIXELS / UNIT, "#000");
    }
    if (box) {
      const margin = Math.round((box[3] - box[1]) / 6);
      const [left, top] = [Math.max(0, box[0] - margin), Math.max(0, box[1] - margin)];
      const width = Math.min(whole.width, box[2] + margin) - left;
      const height = Math.min(whole.height, box[3] + margin) - top;
      const part = new OffscreenCanvas(width, height);
      part.getContext("2d").drawImage(whole, left, top, width, height, 0, 0, width, height);
      whole = part;
    }
    return whole.convertToBlob({ type: "image/png" });
  }

  /** The strokes as text for a link. On wide paper x is halved, so that it fits into a byte. */
  toText() {
    const bytes = this.strokes.flatMap((stroke) => [
      ...stroke.flatMap(([x, y]) => [Math.round((x * UNIT) / this.right), y]),
      END,
    ]);
    return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  /** Draw what `toText` returned; other text draws nothing. */
  fromText(text) {
    this.strokes = [];
    this.photo = null;
    let bytes = "";
    try {
      bytes = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    } catch {
      // not a drawing: leave the paper empty
    }
    let stroke = [];
    for (let place = 0; place < bytes.length; ) {
      const x = bytes.charCodeAt(place++);
      if (x === END) {
        if (stroke.length) this.strokes.push(stroke);
        stroke = [];
      } else if (place < bytes.length) {
        stroke.push([Math.round((x * this.right) / UNIT), Math.min(UNIT, bytes.charCodeAt(place++))]);
      }
    }
    this.changed(true);
  }
}

function draw(context, strokes, scale, colour) {
  context.strokeStyle = colour;
  context.lineWidth = PEN * UNIT * scale;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(([x, y], place) => context[place ? "lineTo" : "moveTo"](x * scale, y * scale));
    if (stroke.length === 1) context.lineTo(stroke[0][0] * scale + 0.01, stroke[0][1] * scale);
    context.stroke();
  }
}
