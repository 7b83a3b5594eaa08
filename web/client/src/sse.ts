// Server-Sent Events as they come: the data of whole events, and whether anything came at all.

export class EventParser {
  #rest = "";
  #data: string[] = [];

  /** Take what has come; the data of each event that is whole now. */
  push(text: string): string[] {
    const whole: string[] = [];
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line.startsWith("data:")) this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      if (line !== "" || this.#data.length === 0) continue; // a comment, a field that says nothing here, or no event
      whole.push(this.#data.join("\n"));
      this.#data = [];
    }
    return whole;
  }
}
