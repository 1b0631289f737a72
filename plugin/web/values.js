// A radiograph's stored values in the browser: read, made smaller, windowed.
import { ask, Refused } from "./api.js";

const TYPES = { "|u1": Uint8Array, "<u1": Uint8Array, "|i1": Int8Array, "<i1": Int8Array, "<u2": Uint16Array, "<i2": Int16Array };

/**
 * All stored values of a single-frame grey image: { levels, least, greatest }. `levels` are { columns, rows, values }, each half as
 * large as the one before; values are Uint16, counted from `least`. Null for colour, several frames, or deeper values. `known`: Orthanc
 * may be asked to render it, since its pixels are whole.
 */
export async function load(instance, signed, known) {
  const path = `instances/${encodeURIComponent(instance)}/`;
  try {
    return fromNumpy(await (await ask(`${path}numpy?rescale=false`, { headers: {} })).arrayBuffer());
  } catch (problem) {
    if (!known || !(problem instanceof Refused) || problem.status < 500) throw problem;
    // Orthanc 1.10 leaves JPEG 2000 to the decoder of a plugin, but not for NumPy's format.
    const answer = await ask(`${path}${signed ? "image-int16" : "image-uint16"}`, { headers: { Accept: "image/x-portable-arbitrarymap" } });
    return fromArbitraryMap(await answer.arrayBuffer(), signed);
  }
}

/** NumPy's format 1.0, with the shape (frames, rows, columns, channels). */
export function fromNumpy(buffer) {
  const length = new DataView(buffer).getUint16(8, true);
  const header = new TextDecoder().decode(new Uint8Array(buffer, 10, length));
  const Type = TYPES[/'descr': '(..\d)'/.exec(header)?.[1]];
  const [frames, rows, columns, channels] = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").map(Number);
  if (!Type || frames !== 1 || channels !== 1) return null;
  return levelsOf(new Type(buffer, 10 + length, rows * columns), rows, columns);
}

/** Netpbm's PAM, with 16 bits big endian. */
export function fromArbitraryMap(buffer, signed) {
  const start = new TextDecoder("latin1").decode(new Uint8Array(buffer, 0, Math.min(buffer.byteLength, 256)));
  const header = start.slice(0, start.indexOf("ENDHDR\n") + 7), field = name => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(header)?.[1]);
  const rows = field("HEIGHT"), columns = field("WIDTH"), data = new DataView(buffer, header.length);
  if (field("DEPTH") !== 1 || field("MAXVAL") !== 65535) return null;
  const stored = new (signed ? Int16Array : Uint16Array)(rows * columns);
  for (let at = 0; at < stored.length; at++) stored[at] = data.getUint16(2 * at);
  return levelsOf(stored, rows, columns);
}

function levelsOf(stored, rows, columns) {
  let least = Infinity, greatest = -Infinity;
  for (let at = 0; at < stored.length; at++) { // many times faster than for ... of and from
    if (stored[at] < least) least = stored[at];
    if (stored[at] > greatest) greatest = stored[at];
  }
  const values = new Uint16Array(stored.length);
  for (let at = 0; at < stored.length; at++) values[at] = stored[at] - least;
  const levels = [{ columns, rows, values }];
  while (Math.min(levels.at(-1).columns, levels.at(-1).rows) > 256) levels.push(halved(levels.at(-1)));
  return { levels, least, greatest };
}

/** Means of 2 by 2 values; the last row and column stand in for those that an odd size lacks. */
function halved({ columns, rows, values }) {
  const half = { columns: (columns + 1) >> 1, rows: (rows + 1) >> 1 };
  half.values = new Uint16Array(half.columns * half.rows);
  for (let row = 0, to = 0; row < half.rows; row++) {
    const upper = 2 * row * columns, lower = Math.min(2 * row + 1, rows - 1) * columns;
    for (let column = 0; column < half.columns; column++, to++) {
      const left = 2 * column, right = Math.min(left + 1, columns - 1);
      half.values[to] = (values[upper + left] + values[upper + right] + values[lower + left] + values[lower + right] + 2) >> 2;
    }
  }
  return half;
}

/** The window that a DICOM file asks for, in stored values; else one that leaves out the extreme 1 % on both sides. */
export function windowOf(tags, { levels, least, greatest }) {
  const first = name => parseFloat(`${tags[name] ?? ""}`.split("\\")[0]);
  const slope = first("RescaleSlope") || 1, intercept = first("RescaleIntercept") || 0;
  const center = (first("WindowCenter") - intercept) / slope, width = first("WindowWidth") / Math.abs(slope);
  if (Number.isFinite(center) && width >= 1) return { center, width };
  const sorted = levels.at(-1).values.slice().sort(), at = share => least + sorted[Math.round(share * (sorted.length - 1))];
  const [low, high] = greatest > least ? [at(0.01), at(0.99)] : [least, greatest];
  return { center: (low + high + 1) / 2, width: Math.max(high - low + 1, 2) };
}

/** What each value, from the least to the greatest, looks like: RGBA as one number. PS3.3 C.11.2.1.2, linear. */
export function table({ least, greatest }, { center, width }, inverted) {
  const grey = new Uint32Array(greatest - least + 1), span = Math.max(width - 1, 1e-6);
  for (let at = 0; at < grey.length; at++) {
    const share = Math.min(Math.max((least + at - (center - 0.5)) / span + 0.5, 0), 1);
    grey[at] = 0xff000000 | (0x010101 * Math.round(255 * (inverted ? 1 - share : share)));
  }
  return grey;
}
