// MessagePack: what is written is what is read, and whatever is read, reading ends.

import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { decode, encode, MessagePackError } from "../src/messagepack.ts";

const text = fc.string({ unit: "binary", maxLength: 40 });
const number = fc.oneof(fc.maxSafeInteger(), fc.integer(), fc.integer({ min: -200, max: 300 }), fc.double());
const plainest = fc.constantFrom(null, true, false);
const any = fc.letrec((tie) => ({
  value: fc.oneof({ maxDepth: 5 }, plainest, number, text, fc.uint8Array(), tie("list"), tie("map")),
  list: fc.array(tie("value"), { maxLength: 20 }),
  map: fc.dictionary(text, tie("value"), { maxKeys: 20 }),
})).value;

function hex(...bytes: number[]): Uint8Array {
  return Uint8Array.from(bytes);
}

/** As a plain object reads it back: -0 is written as 0. */
function plain(value: unknown): unknown {
  if (value === 0) return 0;
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object" || value instanceof Uint8Array) return value;
  return Object.fromEntries(Object.entries(value).map(([key, said]) => [key, plain(said)]));
}

describe("what is written", () => {
  it("is what is read", () => {
    const same = fc.property(any, (value) => {
      expect(decode(encode(value))).toEqual(plain(value));
    });
    fc.assert(same, { numRuns: 1000 });
  });

  it("is what is read for texts, lists and maps of all lengths", () => {
    for (const length of [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536]) {
      const map = Object.fromEntries(Array.from({ length }, (_, key) => [`k${key}`, key]));
      for (const value of ["x".repeat(length), "é".repeat(length), Array(length).fill(7), map]) {
        expect(JSON.stringify(decode(encode(value)))).toBe(JSON.stringify(value)); // quicker than to compare values
      }
      const bytes = Buffer.alloc(length, 7);
      expect(bytes.equals(decode(encode(bytes)) as Uint8Array)).toBe(true);
    }
  });

  it("takes as few bytes as there can be for whole numbers", () => {
    const sizes = [[0, 1], [127, 1], [128, 2], [255, 2], [256, 3], [65_535, 3], [65_536, 5], [2 ** 32, 9]];
    const negative = [[1 - 2 ** 53, 9], [-1, 1], [-32, 1], [-33, 2], [-128, 2], [-129, 3], [-32_768, 3], [-32_769, 5]];
    for (const [value, size] of [...sizes, ...negative]) expect([value, encode(value).length]).toEqual([value, size]);
  });

  it("means what it means in JSON", () => {
    const value = { a: undefined, b: [undefined, 1], c: new Date(0), d: new URL("https://example.com/"), e: { f: "" } };
    expect(decode(encode(value))).toEqual(JSON.parse(JSON.stringify(value)));
  });

  it("is nothing that cannot be read", () => {
    const cycle: unknown[] = [];
    cycle.push(cycle);
    for (const value of [1n, () => 1, Symbol("s"), cycle]) expect(() => encode(value)).toThrow(MessagePackError);
  });
});

describe("what is read", () => {
  it("is what Python's msgpack has written", () => {
    interface Written {
      value: unknown;
      hex: string;
    }
    const file = new URL("./messagepack.json", import.meta.url);
    const cases: Written[] = JSON.parse(readFileSync(file, "utf-8"));
    expect(cases.length).toBeGreaterThan(40);
    for (const { value, hex: written } of cases) {
      expect(decode(Buffer.from(written, "hex"))).toEqual(value);
      expect(Buffer.from(encode(value)).toString("hex")).toBe(written);
    }
  });

  it("may be integers of 64 bits, floats of 32, and bytes", () => {
    expect(decode(hex(0xcf, 0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))).toBe(Number.MAX_SAFE_INTEGER);
    expect(decode(hex(0xd3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe))).toBe(-2);
    expect(decode(hex(0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))).toBe(2 ** 64);
    expect(decode(hex(0xca, 0x3f, 0xc0, 0, 0))).toBe(1.5);
    expect(decode(hex(0xc4, 2, 1, 2).buffer as ArrayBuffer)).toEqual(hex(1, 2));
  });

  it("keeps a byte order mark, and a key that objects have a meaning for", () => {
    const odd = { ["__proto__"]: 1, text: "\uFEFFa" };
    const read = decode(encode(odd));
    expect(Object.entries(read as object)).toEqual([["__proto__", 1], ["text", "\uFEFFa"]]);
    expect(Object.getPrototypeOf(read)).toBe(Object.prototype);
  });

  it("has no extension types: they are null, and what follows is read", () => {
    expect(decode(hex(0x92, 0xd6, 0xff, 1, 2, 3, 4, 5))).toEqual([null, 5]);
    expect(decode(hex(0x92, 0xc7, 3, 1, 1, 2, 3, 5))).toEqual([null, 5]);
  });

  it("is refused where it is cut off", () => {
    const whole = encode({ a: [1, "two", 3.5, new Uint8Array(3)], b: { c: null, d: "é".repeat(40) }, e: -70_000 });
    for (let length = 0; length < whole.length; length++) {
      expect(() => decode(whole.subarray(0, length))).toThrow(MessagePackError);
    }
    expect(() => decode(Uint8Array.from([...whole, 0]))).toThrow("something follows");
  });

  it("is refused where it says more than there is, is no text, or nests without end", () => {
    expect(() => decode(hex(0xdd, 0xff, 0xff, 0xff, 0xff))).toThrow("ends too early");
    expect(() => decode(hex(0xdf, 0xff, 0xff, 0xff, 0xff, 1))).toThrow("ends too early");
    expect(() => decode(hex(0xc1))).toThrow("0xc1 begins nothing");
    expect(() => decode(hex(0xa2, 0xc3, 0x28))).toThrow("no UTF-8");
    expect(() => decode(hex(0x81, 1, 1))).toThrow("a key is no text");
    expect(() => decode(new Uint8Array(10_000).fill(0x91))).toThrow("nested too deeply");
  });

  it("is read to an end, or refused, whatever the bytes", () => {
    const ends = fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      try {
        decode(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(MessagePackError);
      }
    });
    fc.assert(ends, { numRuns: 5000 });
  });
});
