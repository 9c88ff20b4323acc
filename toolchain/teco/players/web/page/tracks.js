// @ts-check
/**
 * How many tracks of each kind a file has, by its own table of contents: browsers do not tell a page
 * of sound that they cannot decode, nor of subtitles that they do not show.
 */

/** @typedef {{picture: number, sound: number, subtitles: number}} Tracks */
/** @typedef {(at: number, length: number) => Promise<DataView>} Read fewer bytes at the end */

/** Bytes of a table of contents that are read at most; of a film of some hours they are a few MB. */
const MOST = 1 << 26;
const MOST_BOXES = 10_000;

/** @type {Record<string, keyof Tracks>} handlers of MP4 and QuickTime */
const HANDLERS = {
  vide: "picture", soun: "sound", sbtl: "subtitles", subt: "subtitles", subp: "subtitles",
  clcp: "subtitles", text: "subtitles",
};
/** @type {Record<number, keyof Tracks>} track types of Matroska and WebM */
const TYPES = { 1: "picture", 2: "sound", 17: "subtitles" };
const EBML = 0x1a45dfa3;
const SEGMENT = 0x18538067;
const CLUSTER = 0x1f43b675;
const TRACKS = 0x1654ae6b;
const ENTRY = 0xae;
const TYPE = 0x83;

/**
 * @param {Blob} file
 * @returns {Promise<Tracks | null>} null of a file of another kind, or that is damaged
 */
export async function tracksOf(file) {
  /** @type {Read} */
  const read = async (at, length) =>
    new DataView(await file.slice(at, at + Math.min(length, MOST)).arrayBuffer());
  try {
    const head = await read(0, 8);
    return head.getUint32(0) === EBML
      ? await ofMatroska(read, file.size)
      : await ofBoxes(read, file.size);
  } catch (error) {
    if (error instanceof RangeError) return null; // an element that ends behind the file
    throw error;
  }
}

/** @returns {Tracks} */
const none = () => ({ picture: 0, sound: 0, subtitles: 0 });

/** @param {DataView} view @param {number} at */
const letters = (view, at) =>
  String.fromCharCode(...[0, 1, 2, 3].map((n) => view.getUint8(at + n)));

/** MP4, MOV and their kin. @param {Read} read @param {number} end */
async function ofBoxes(read, end) {
  for (let at = 0, n = 0; at + 8 <= end && n < MOST_BOXES; n++) {
    const head = await read(at, 16);
    const [size, body] = extent(head, 0, end - at);
    if (size < body) return null;
    if (letters(head, 4) === "moov") {
      const found = none();
      // What says chapters in QuickTime's way is a track of text, too.
      if (count(await read(at + body, size - body), found) && found.subtitles) found.subtitles--;
      return found;
    }
    at += size;
  }
  return null;
}

/**
 * Length of a box, and where in it its content begins.
 *
 * @param {DataView} view
 * @param {number} at
 * @param {number} rest bytes that there are
 * @returns {[number, number]}
 */
function extent(view, at, rest) {
  const size = view.getUint32(at);
  if (size === 1) return [Number(view.getBigUint64(at + 8)), 16];
  return [size === 0 ? rest : size, 8];
}

/**
 * The tracks by their handlers, moov/trak/mdia/hdlr.
 *
 * @param {DataView} view
 * @param {Tracks} found is added to
 * @returns {boolean} whether one of them holds the chapters, moov/trak/tref/chap
 */
function count(view, found) {
  let chapters = false;
  for (let at = 0; at + 8 <= view.byteLength;) {
    const [size, body] = extent(view, at, view.byteLength - at);
    // What reaches beyond its parent is damaged, and reading it over and over would take for ever.
    if (size < body || at + size > view.byteLength) return chapters;
    const name = letters(view, at + 4);
    if (["trak", "mdia", "tref"].includes(name)) {
      const inside = new DataView(view.buffer, view.byteOffset + at + body, size - body);
      chapters = count(inside, found) || chapters;
    } else if (name === "chap") {
      chapters = true;
    } else if (name === "hdlr") {
      const kind = HANDLERS[letters(view, at + body + 8)];
      if (kind) found[kind]++;
    }
    at += size;
  }
  return chapters;
}

/** @param {Read} read @param {number} end */
async function ofMatroska(read, end) {
  for (let at = 0, n = 0; at < end && n < MOST_BOXES; n++) {
    const { id, size, body } = element(await read(at, 16), 0);
    if (id === CLUSTER) return null;
    if (id === TRACKS) return entries(await read(at + body, size));
    at += id === SEGMENT ? body : body + size;
  }
  return null;
}

/** @param {DataView} view content of Tracks */
function entries(view) {
  const found = none();
  for (let at = 0; at < view.byteLength;) {
    const { id, size, body } = element(view, at);
    if (id === ENTRY) {
      for (let inside = at + body; inside < at + body + size;) {
        const field = element(view, inside);
        const kind = field.id === TYPE ? TYPES[view.getUint8(inside + field.body)] : undefined;
        if (kind) found[kind]++;
        inside += field.body + field.size;
      }
    }
    at += body + size;
  }
  return found;
}

/**
 * An element of EBML: its id with the mark of its length, the size of its content, and where that
 * begins. A size that is not known is infinite.
 *
 * @param {DataView} view
 * @param {number} at
 */
function element(view, at) {
  const wide = (/** @type {number} */ place) => Math.clz32(view.getUint8(place)) - 23;
  const [idLength, sizeLength] = [wide(at), wide(at + wide(at))];
  if (idLength > 4 || sizeLength > 8) throw new RangeError("no EBML");
  let id = 0;
  for (let n = 0; n < idLength; n++) id = id * 256 + view.getUint8(at + n);
  const mask = (1 << (8 - sizeLength)) - 1;
  let size = view.getUint8(at + idLength) & mask;
  let unknown = size === mask;
  for (let n = 1; n < sizeLength; n++) {
    const byte = view.getUint8(at + idLength + n);
    unknown &&= byte === 255;
    size = size * 256 + byte;
  }
  return { id, size: unknown ? Infinity : size, body: idLength + sizeLength };
}
