// Class activation maps as pictures to lay over the image; see plugin/activation.py.

export const CELLS = 7;
const PIXELS = 32; // of the picture, for each cell: as many as a cell has in the model's input

/** Nine points of matplotlib's inferno (CC0), in equal steps of lightness. */
export const INFERNO = ["000004", "210c4a", "56106e", "89226a", "bb3754", "e35932", "f98c0a", "f9c932", "fcffa4"]
  .map(hex => [0, 2, 4].map(at => parseInt(hex.slice(at, at + 2), 16)));

/** The map of the finding with this number: 49 numbers, row by row; above 0 speaks for the finding, below 0 against it. */
export function mapOf(activation, finding) {
  const bytes = Uint8Array.from(atob(activation.float16), letter => letter.charCodeAt(0));
  const data = new DataView(bytes.buffer);
  return Float32Array.from({ length: CELLS * CELLS }, (_, cell) => half(data.getUint16(2 * (finding * CELLS * CELLS + cell), true)));
}

/** An IEEE 754 half float from its 16 bits. */
function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? Infinity : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
}

/** The colour of 0..1 as [red, green, blue]. */
export function colour(share) {
  const place = share * (INFERNO.length - 1), below = Math.min(Math.floor(place), INFERNO.length - 2);
  return INFERNO[below].map((from, channel) => from + (INFERNO[below + 1][channel] - from) * (place - below));
}

/** The value at (x, y), in cells from the map's corner: bilinear between the cells' centres, constant beyond them. */
function valueAt(map, x, y) {
  const inside = place => Math.min(Math.max(place - 0.5, 0), CELLS - 1);
  const left = Math.min(Math.floor(inside(x)), CELLS - 2), top = Math.min(Math.floor(inside(y)), CELLS - 2);
  const across = inside(x) - left, down = inside(y) - top, at = top * CELLS + left;
  return (map[at] * (1 - across) + map[at + 1] * across) * (1 - down) + (map[at + CELLS] * (1 - across) + map[at + CELLS + 1] * across) * down;
}

/** A square canvas that covers the crop; what does not speak for the finding is transparent. */
export function picture(map) {
  const canvas = document.createElement("canvas"), size = canvas.width = canvas.height = CELLS * PIXELS;
  const context = canvas.getContext("2d"), image = context.createImageData(size, size), highest = Math.max(...map);
  if (highest > 0) {
    for (let pixel = 0; pixel < size * size; pixel++) {
      const value = valueAt(map, (pixel % size + 0.5) / PIXELS, (Math.floor(pixel / size) + 0.5) / PIXELS) / highest;
      if (value <= 0) continue;
      image.data.set(colour(value), 4 * pixel);
      image.data[4 * pixel + 3] = 255 * Math.min(1, 2 * value); // faint evidence lets the image show through
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The colours from 0 to the map's highest value, as the overlay shows them. */
export function scale(canvas) {
  const context = canvas.getContext("2d");
  canvas.width = 256;
  canvas.height = 1;
  for (let x = 0; x < 256; x++) {
    context.fillStyle = `rgb(${colour(x / 255).join(" ")} / ${Math.min(1, (2 * x) / 255)})`;
    context.fillRect(x, 0, 1, 1);
  }
}
