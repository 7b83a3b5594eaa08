// Images that go with the next message.
//
// They travel inside the message, as base64, and a message is one frame, whose size the server bounds.  So there is so
// much room for all of them together; an image that is larger than what is left is made smaller until it fits, as
// cameras give more than a model looks at anyway.

import type { ContentPart } from "@everstream/client";

import { Changes } from "./changes.ts";

const TYPES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const MOST = 8;
const ENVELOPE_BYTES = 4_096; // the command around the content
const TEXT_BYTES = 65_536; // kept free for what is said beside the images
const EDGES_PX = [2_048, 1_568, 1_024, 768]; // the longer edge, tried in turn
const QUALITY = 0.85;
const TOO_MUCH = "does not fit into a message beside what is there.";

export interface Attachment {
  key: number;
  name: string;
  media_type: string;
  data: string; // base64
}

/** What an `<input accept>` is given. */
export const ACCEPTED = TYPES.join(",");

export class Attachments {
  readonly #changes = new Changes();
  readonly on = this.#changes.on;
  readonly #room: () => number;
  #key = 0;
  list: readonly Attachment[] = [];

  /** `frameBytes()`: the most that a frame may have. */
  constructor(frameBytes: () => number) {
    const taken = (): number => this.list.reduce((sum, { data }) => sum + data.length, 0);
    this.#room = () => frameBytes() - ENVELOPE_BYTES - TEXT_BYTES - taken();
  }

  /** Take files as images; what is wrong with those that could not be taken, or "". */
  async add(files: readonly File[]): Promise<string> {
    const refused: string[] = [];
    for (const file of files) {
      const why = await this.#take(file);
      if (why !== "") refused.push(`${file.name || "The image"} ${why}`);
    }
    return refused.join(" ");
  }

  remove(key: number): void {
    this.list = this.list.filter((attachment) => attachment.key !== key);
    this.#changes.tell();
  }

  clear(): void {
    if (this.list.length === 0) return;
    this.list = [];
    this.#changes.tell();
  }

  get parts(): ContentPart[] {
    return this.list.map(({ data, media_type }) => ({ type: "image", data, media_type }));
  }

  async #take(file: File): Promise<string> {
    if (!file.type.startsWith("image/")) return "is no image.";
    if (this.list.length >= MOST) return `is one too many: ${MOST} go with a message.`;
    let fitting: Blob | null;
    try {
      fitting = await fitted(file, this.#room());
    } catch {
      return "is no image that this browser can read.";
    }
    const data = fitting && (await base64Of(fitting));
    if (fitting === null || data === null || data.length > this.#room()) return TOO_MUCH;
    this.#key += 1;
    this.list = [...this.list, { key: this.#key, name: file.name || "image", media_type: fitting.type, data }];
    this.#changes.tell();
    return "";
  }
}

/** How many characters so many bytes are as base64. */
export function base64Length(bytes: number): number {
  return Math.ceil(bytes / 3) * 4;
}

/**
 * The image as it is, or made smaller, so that it fits into `room` characters of base64; null where it does not.
 * Rejects where it is none, or of a kind that this browser does not read.
 */
async function fitted(file: Blob, room: number): Promise<Blob | null> {
  const bitmap = await createImageBitmap(file);
  try {
    if (TYPES.includes(file.type) && base64Length(file.size) <= room) return file;
    for (const edge of EDGES_PX) {
      const smaller = await drawn(bitmap, edge);
      if (smaller !== null && base64Length(smaller.size) <= room) return smaller;
    }
    return null;
  } finally {
    bitmap.close();
  }
}

function drawn(bitmap: ImageBitmap, edge: number): Promise<Blob | null> {
  const scale = Math.min(1, edge / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  if (context === null) return Promise.resolve(null);
  context.fillStyle = "#fff"; // JPEG knows no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}

function base64Of(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => reject(reader.error ?? new Error("The file could not be read."));
    reader.readAsDataURL(blob);
  });
}
