// MessagePack, as far as frames need it (github.com/msgpack/msgpack/blob/master/spec.md).
//
// It means what JSON means: `undefined` in a map is left out, in a list it is nil; what has `toJSON` is what that says.
// Beside that there are bytes.  A whole number below 2**53 is written as an integer, any other number as a float; a
// larger integer that is read is the nearest number, as in JSON.  Extension types mean nothing here and are read as
// null.  Whatever comes, reading ends: lengths are held against what is there, and nesting has a bound.

export class MessagePackError extends Error {
  override readonly name = "MessagePackError";
}

const NESTING_MOST = 128; // as the server has it
const SHORT_TEXT_BYTES = 40; // up to here it is faster not to ask the decoder
const FIRST_ROOM_BYTES = 256;
const UTF8 = new TextEncoder();
const FROM_UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The bytes of a value.  Raises MessagePackError for what has none (a bigint, a function, a cycle). */
export function encode(value: unknown): Uint8Array<ArrayBuffer> {
  const writer = new Writer();
  writer.value(value, 0);
  return writer.bytes;
}

/** The value in `bytes`, all of them.  Raises MessagePackError for what is no MessagePack, or ends too early. */
export function decode(bytes: Uint8Array | ArrayBuffer): unknown {
  const reader = new Reader(bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes));
  const value = reader.value(0);
  if (!reader.done) throw new MessagePackError("something follows the value");
  return value;
}

/** The first byte of each way to write a length: of up to 31 or 15 in that byte, of one, two and four bytes. */
interface Heads {
  within: { below: number; byte: number } | null;
  one: number | null;
  two: number;
  four: number;
}

const TEXT: Heads = { within: { below: 32, byte: 0xa0 }, one: 0xd9, two: 0xda, four: 0xdb };
const BYTES: Heads = { within: null, one: 0xc4, two: 0xc5, four: 0xc6 };
const LIST: Heads = { within: { below: 16, byte: 0x90 }, one: null, two: 0xdc, four: 0xdd };
const MAP: Heads = { within: { below: 16, byte: 0x80 }, one: null, two: 0xde, four: 0xdf };

class Writer {
  #bytes = new Uint8Array(FIRST_ROOM_BYTES);
  #view = new DataView(this.#bytes.buffer);
  #at = 0;

  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.#at);
  }

  value(value: unknown, depth: number): void {
    if (depth > NESTING_MOST) throw new MessagePackError("nested too deeply");
    if (value === null || value === undefined) this.#byte(0xc0);
    else if (typeof value === "boolean") this.#byte(value ? 0xc3 : 0xc2);
    else if (typeof value === "number") this.#number(value);
    else if (typeof value === "string") this.#text(value);
    else if (typeof value !== "object") throw new MessagePackError(`a ${typeof value} cannot be written`);
    else if (value instanceof Uint8Array) this.#all(BYTES, value);
    else if (Array.isArray(value)) this.#list(value, depth);
    else if ("toJSON" in value && typeof value.toJSON === "function") this.value(value.toJSON(), depth + 1);
    else this.#map(value, depth);
  }

  #list(values: unknown[], depth: number): void {
    this.#length(LIST, values.length);
    for (const value of values) this.value(value, depth + 1);
  }

  #map(value: object, depth: number): void {
    const entries = Object.entries(value).filter(([, said]) => said !== undefined);
    this.#length(MAP, entries.length);
    for (const [key, said] of entries) {
      this.#text(key);
      this.value(said, depth + 1);
    }
  }

  #text(text: string): void {
    this.#all(TEXT, UTF8.encode(text));
  }

  #all(heads: Heads, bytes: Uint8Array): void {
    this.#length(heads, bytes.length);
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  #length({ within, one, two, four }: Heads, length: number): void {
    if (within !== null && length < within.below) this.#byte(within.byte | length);
    else if (one !== null && length < 2 ** 8) this.#head(one, 1, (at) => this.#view.setUint8(at, length));
    else if (length < 2 ** 16) this.#head(two, 2, (at) => this.#view.setUint16(at, length));
    else this.#head(four, 4, (at) => this.#view.setUint32(at, length));
  }

  #number(value: number): void {
    if (!Number.isSafeInteger(value)) this.#head(0xcb, 8, (at) => this.#view.setFloat64(at, value));
    else if (value >= 0) this.#natural(value);
    else this.#negative(value);
  }

  #natural(value: number): void {
    if (value < 2 ** 7) this.#byte(value);
    else if (value < 2 ** 8) this.#head(0xcc, 1, (at) => this.#view.setUint8(at, value));
    else if (value < 2 ** 16) this.#head(0xcd, 2, (at) => this.#view.setUint16(at, value));
    else if (value < 2 ** 32) this.#head(0xce, 4, (at) => this.#view.setUint32(at, value));
    else this.#head(0xcf, 8, (at) => this.#view.setBigUint64(at, BigInt(value)));
  }

  #negative(value: number): void {
    if (value >= -(2 ** 5)) this.#byte(value & 0xff);
    else if (value >= -(2 ** 7)) this.#head(0xd0, 1, (at) => this.#view.setInt8(at, value));
    else if (value >= -(2 ** 15)) this.#head(0xd1, 2, (at) => this.#view.setInt16(at, value));
    else if (value >= -(2 ** 31)) this.#head(0xd2, 4, (at) => this.#view.setInt32(at, value));
    else this.#head(0xd3, 8, (at) => this.#view.setBigInt64(at, BigInt(value)));
  }

  #byte(byte: number): void {
    this.#room(1);
    this.#bytes[this.#at++] = byte;
  }

  /** A first byte, and what stands in the `size` bytes behind it. */
  #head(byte: number, size: number, set: (at: number) => void): void {
    this.#room(1 + size);
    this.#bytes[this.#at] = byte;
    set(this.#at + 1);
    this.#at += 1 + size;
  }

  #room(more: number): void {
    const needed = this.#at + more;
    if (needed <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(needed, 2 * this.#bytes.length));
    larger.set(this.#bytes);
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }
}

class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get done(): boolean {
    return this.#at === this.#bytes.length;
  }

  value(depth: number): unknown {
    if (depth > NESTING_MOST) throw new MessagePackError("nested too deeply");
    const byte = this.#view.getUint8(this.#take(1));
    if (byte < 0x80) return byte;
    if (byte < 0x90) return this.#map(byte & 0x0f, depth);
    if (byte < 0xa0) return this.#list(byte & 0x0f, depth);
    if (byte < 0xc0) return this.#text(byte & 0x1f);
    if (byte >= 0xe0) return byte - 0x100;
    return this.#typed(byte, depth);
  }

  /** What a first byte from 0xc0 to 0xdf says; 0xc1 says nothing. */
  #typed(byte: number, depth: number): unknown {
    const view = this.#view;
    switch (byte) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return this.#copied(this.#length(byte - 0xc4));
      case 0xc7: case 0xc8: case 0xc9: return this.#skip(this.#length(byte - 0xc7));
      case 0xca: return view.getFloat32(this.#take(4));
      case 0xcb: return view.getFloat64(this.#take(8));
      case 0xcc: case 0xcd: case 0xce: return this.#length(byte - 0xcc);
      case 0xcf: return Number(view.getBigUint64(this.#take(8)));
      case 0xd0: return view.getInt8(this.#take(1));
      case 0xd1: return view.getInt16(this.#take(2));
      case 0xd2: return view.getInt32(this.#take(4));
      case 0xd3: return Number(view.getBigInt64(this.#take(8)));
      case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return this.#skip(2 ** (byte - 0xd4));
      case 0xd9: case 0xda: case 0xdb: return this.#text(this.#length(byte - 0xd9));
      case 0xdc: case 0xdd: return this.#list(this.#length(byte - 0xdb), depth);
      case 0xde: case 0xdf: return this.#map(this.#length(byte - 0xdd), depth);
      default: throw new MessagePackError(`0x${byte.toString(16)} begins nothing`);
    }
  }

  /** A number of one, two or four bytes: of 2**`power`. */
  #length(power: number): number {
    const at = this.#take(2 ** power);
    if (power === 0) return this.#view.getUint8(at);
    return power === 1 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  #list(count: number, depth: number): unknown[] {
    this.#holds(count);
    const values: unknown[] = [];
    for (let n = 0; n < count; n++) values.push(this.value(depth + 1));
    return values;
  }

  #map(count: number, depth: number): Record<string, unknown> {
    this.#holds(2 * count);
    const map: Record<string, unknown> = {};
    for (let n = 0; n < count; n++) {
      const key = this.value(depth + 1);
      if (typeof key !== "string") throw new MessagePackError("a key is no text");
      const value = this.value(depth + 1);
      if (key !== "__proto__") map[key] = value;
      else Object.defineProperty(map, key, { value, enumerable: true, configurable: true, writable: true });
    }
    return map;
  }

  #text(length: number): string {
    const at = this.#take(length);
    if (length <= SHORT_TEXT_BYTES) {
      const text = this.#ascii(at, at + length);
      if (text !== null) return text;
    }
    try {
      return FROM_UTF8.decode(this.#bytes.subarray(at, at + length));
    } catch {
      throw new MessagePackError("a text is no UTF-8");
    }
  }

  #ascii(from: number, to: number): string | null {
    let text = "";
    for (let at = from; at < to; at++) {
      const byte = this.#view.getUint8(at);
      if (byte >= 0x80) return null;
      text += String.fromCharCode(byte);
    }
    return text;
  }

  #copied(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.slice(at, at + length);
  }

  /** An extension: its type is one byte, and what is in it stays where it is. */
  #skip(length: number): null {
    this.#take(1 + length);
    return null;
  }

  /** Go on by `size` bytes, and say where they begin. */
  #take(size: number): number {
    this.#holds(size);
    const at = this.#at;
    this.#at += size;
    return at;
  }

  /** Each value has a byte at least: so nothing is begun that cannot be all there. */
  #holds(bytes: number): void {
    if (bytes > this.#bytes.length - this.#at) throw new MessagePackError("it ends too early");
  }
}
