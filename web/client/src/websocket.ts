// Frames over a WebSocket, in JSON or MessagePack.

import type { Carrier, Carry, Heard } from "./carrier.ts";
import { bytesOf } from "./carrier.ts";
import type { Command, Frame, HelloCommand } from "./frames.ts";

const CLOSE_UNREADABLE = 1007;

/** How frames are written: the subprotocol's name, and both directions. */
export interface Encoding {
  readonly subprotocol: string;
  encode(command: Command): string | Uint8Array<ArrayBuffer>;
  decode(data: unknown): unknown;
}

export const JSON_FRAMES: Encoding = {
  subprotocol: "everstream.v1.json",
  encode: (command) => JSON.stringify(command),
  decode: (data) => JSON.parse(data as string),
};

/** MessagePack is loaded by who wants it.  JSON says the same, where it cannot be had. */
export async function msgpackFrames(): Promise<Encoding> {
  try {
    const { decode, encode } = await import("./messagepack.ts");
    return { subprotocol: "everstream.v1.msgpack", encode, decode: (data) => decode(data as ArrayBuffer) };
  } catch {
    return JSON_FRAMES;
  }
}

/** The address of the WebSocket, or of HTTP, at the same place. */
export function addressOf(url: string | URL, scheme: "ws" | "http"): URL {
  const address = new URL(url);
  const secure = address.protocol === "wss:" || address.protocol === "https:";
  address.protocol = secure ? `${scheme}s:` : `${scheme}:`;
  return address;
}

/** The address of the WebSocket beside the page, whatever path prefix a proxy put before both. */
export function addressBeside(base: string): URL {
  const address = addressOf(new URL("ws", base), "ws");
  address.search = "";
  address.hash = "";
  return address;
}

/** `encodingNow()` is asked for every connection. */
export function overWebSocket(url: URL, encodingNow: () => Encoding, Socket: typeof WebSocket): Carry {
  return (hello: () => HelloCommand, heard: Heard): Carrier => {
    const encoding = encodingNow();
    const socket = new Socket(addressOf(url, "ws"), [encoding.subprotocol]);
    socket.binaryType = "arraybuffer";
    const carrier: Carrier = {
      overhead: 0,
      encode: (command) => encoding.encode(command),
      send: (encoded) => socket.send(encoded),
      close() {
        socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
        socket.close();
      },
    };
    socket.onopen = () => {
      const said = hello();
      const encoded = carrier.encode(said);
      socket.send(encoded);
      heard.said(said, bytesOf(encoded));
    };
    socket.onmessage = ({ data }: MessageEvent<unknown>) => {
      const bytes = data instanceof ArrayBuffer ? data.byteLength : bytesOf(data as string);
      let frame: Frame;
      try {
        frame = encoding.decode(data) as Frame;
      } catch (error) {
        carrier.close();
        heard.closed(CLOSE_UNREADABLE, String(error));
        return;
      }
      heard.frame(frame, bytes);
    };
    socket.onclose = ({ code, reason }) => heard.closed(code, reason);
    return carrier;
  };
}
