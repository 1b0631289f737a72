// A radiograph on a canvas: window, zoom and move by mouse, touch and keyboard.
import { table } from "./values.js";

const SMALLEST = 0.5; // times the size that fits
const LARGEST = 32; // pixels of the screen for one of the image

/**
 * Show an image of rows x columns pixels on `canvas`, which fills its parent. `changed` is called after each drawing with
 * { zoom, center, width, inverted }: zoom in screen pixels for one of the image, the window in stored values.
 */
export function viewer(canvas, { rows, columns }, changed) {
  const context = canvas.getContext("2d", { alpha: false }), scratch = document.createElement("canvas");
  const now = { preview: null, stored: null, overlay: null, opacity: 0.6, tool: "window", inverted: false, x: 0, y: 0, scale: 0, fitted: true };
  let first = null, grey = null, image = null, drawing = 0, pixelRatio = 1; // `image` is made once for each size: it is large

  const width = () => canvas.width / pixelRatio, height = () => canvas.height / pixelRatio;
  const fitting = () => Math.min(width() / columns, height() / rows);

  function fit() {
    now.fitted = true;
    now.scale = fitting();
    settle();
  }

  /** An image smaller than the canvas stands in its middle; a larger one leaves no gap. */
  function settle() {
    const held = (place, image, space) => (image <= space ? (space - image) / 2 : Math.min(0, Math.max(space - image, place)));
    now.x = held(now.x, columns * now.scale, width());
    now.y = held(now.y, rows * now.scale, height());
    draw();
  }

  /** Zoom by a factor and leave what is at (x, y) of the canvas where it is. */
  function zoom(factor, x = width() / 2, y = height() / 2) {
    const least = Math.min(fitting() * SMALLEST, 1 / pixelRatio), most = Math.max(LARGEST / pixelRatio, fitting());
    const scale = Math.min(Math.max(now.scale * factor, least), most);
    now.x = x - ((x - now.x) * scale) / now.scale;
    now.y = y - ((y - now.y) * scale) / now.scale;
    now.scale = scale;
    now.fitted = false;
    settle();
  }

  function move(x, y) {
    now.x += x;
    now.y += y;
    now.fitted = false;
    settle();
  }

  /** To the right: wider, less contrast. Down: darker. In shares of the first window's width. */
  function shift(wider, darker) {
    if (!now.stored) return;
    now.width = Math.max(2, now.width + wider * first.width);
    now.center += darker * first.width * (now.inverted ? -1 : 1);
    grey = null;
    draw();
  }

  function draw() {
    drawing ||= requestAnimationFrame(() => {
      drawing = 0;
      paint();
      changed({ zoom: now.scale * pixelRatio, center: now.center, width: now.width, inverted: now.inverted });
    });
  }

  function paint() {
    const scale = now.scale * pixelRatio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.setTransform(scale, 0, 0, scale, Math.round(now.x * pixelRatio), Math.round(now.y * pixelRatio)); // to the image's pixels
    context.imageSmoothingQuality = now.stored ? "low" : "high"; // the levels are smooth already
    if (now.stored) paintStored(scale);
    else if (now.preview) context.drawImage(now.preview, 0, 0, columns, rows);
    if (now.overlay) {
      const { picture, crop } = now.overlay;
      context.globalAlpha = now.opacity;
      context.drawImage(picture, crop.column, crop.row, crop.size, crop.size);
      context.globalAlpha = 1;
      context.strokeStyle = "#fff8";
      context.lineWidth = pixelRatio / scale;
      context.setLineDash([6 * context.lineWidth, 6 * context.lineWidth]);
      context.strokeRect(crop.column, crop.row, crop.size, crop.size);
    }
  }

  /** Only what can be seen, from the level that is just fine enough: this takes milliseconds at any size. */
  function paintStored(scale) {
    const wanted = Math.max(0, Math.floor(Math.log2(1 / scale) + 0.01)), at = Math.min(wanted, now.stored.levels.length - 1);
    const level = now.stored.levels[at], step = 2 ** at;
    const seen = (place, end) => Math.min(Math.max(Math.floor(place / step), 0), end);
    const left = seen(-now.x / now.scale - step, level.columns), right = seen((width() - now.x) / now.scale + 2 * step, level.columns);
    const top = seen(-now.y / now.scale - step, level.rows), bottom = seen((height() - now.y) / now.scale + 2 * step, level.rows);
    if (right <= left || bottom <= top) return;
    grey ??= table(now.stored, now, now.inverted);
    if (image?.width !== right - left || image.height !== bottom - top) {
      image = new ImageData(right - left, bottom - top);
      Object.assign(scratch, { width: image.width, height: image.height });
    }
    const pixels = new Uint32Array(image.data.buffer), { values } = level;
    for (let row = top, to = 0; row < bottom; row++) {
      for (let from = row * level.columns + left, end = row * level.columns + right; from < end; from++) pixels[to++] = grey[values[from]];
    }
    scratch.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(scratch, left * step, top * step, image.width * step, image.height * step);
  }

  function setTool(tool) {
    now.tool = tool;
    canvas.dataset.tool = tool;
  }

  function invert() {
    if (!now.stored) return;
    now.inverted = !now.inverted;
    grey = null;
    draw();
  }

  function reset() {
    if (first) Object.assign(now, first);
    grey = null;
    fit();
  }

  new ResizeObserver(() => {
    pixelRatio = window.devicePixelRatio || 1;
    const box = canvas.parentElement.getBoundingClientRect(), middle = [(width() / 2 - now.x) / now.scale, (height() / 2 - now.y) / now.scale];
    canvas.width = Math.max(1, Math.round(box.width * pixelRatio));
    canvas.height = Math.max(1, Math.round(box.height * pixelRatio));
    if (now.fitted) return fit();
    [now.x, now.y] = [width() / 2 - middle[0] * now.scale, height() / 2 - middle[1] * now.scale];
    settle();
  }).observe(canvas.parentElement);

  setTool("window");
  listen(canvas, { now, zoom, move, shift, invert, reset });

  return {
    zoom, fit, reset, invert, setTool,
    actualSize: () => zoom(1 / (now.scale * pixelRatio)),
    /** A picture that stands in until the stored values are there, or for good. */
    preview(bitmap) {
      now.preview = bitmap;
      draw();
    },
    /** `stored` from values.js, and how to show it at first. */
    show(stored, look) {
      Object.assign(now, { stored }, look);
      first = look;
      grey = null;
      draw();
    },
    /** A picture over the square `crop` of the image, or null. */
    overlay(overlay) {
      now.overlay = overlay;
      draw();
    },
    opacity(share) {
      now.opacity = share;
      draw();
    },
  };
}

const STEP = 40; // pixels for an arrow key
const PER_PIXEL = 1 / 400; // of the window's width

function listen(canvas, { now, zoom, move, shift, invert, reset }) {
  const fingers = new Map();
  const place = event => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const between = () => {
    const [a, b] = [...fingers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
  };

  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { ...place(event), moves: event.button > 0 || event.shiftKey || now.tool === "move" });
  });
  canvas.addEventListener("pointermove", event => {
    const old = fingers.get(event.pointerId);
    if (!old) return;
    const there = place(event), before = fingers.size === 2 && between();
    fingers.set(event.pointerId, { ...old, ...there });
    if (before) {
      const after = between();
      move(after.x - before.x, after.y - before.y);
      zoom(after.apart / before.apart, after.x, after.y);
    } else if (old.moves) move(there.x - old.x, there.y - old.y);
    else shift((there.x - old.x) * PER_PIXEL, (there.y - old.y) * PER_PIXEL);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, event => fingers.delete(event.pointerId));
  canvas.addEventListener("contextmenu", event => event.preventDefault());
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const lines = event.deltaY * (event.deltaMode === 1 ? 30 : 1);
    const { x, y } = place(event);
    zoom(Math.exp(-Math.min(Math.max(lines, -200), 200) * (event.ctrlKey ? 0.01 : 0.002)), x, y);
  }, { passive: false });
  canvas.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const other = { "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: reset, i: invert }[event.key];
    if (!arrow && !other) return;
    event.preventDefault();
    if (other) other();
    else if (event.shiftKey) shift(arrow[0] * STEP * PER_PIXEL, arrow[1] * STEP * PER_PIXEL);
    else move(-arrow[0] * STEP, -arrow[1] * STEP);
  });
}
