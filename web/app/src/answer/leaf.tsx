// Text that follows a growing string: what is added is appended, so that what is selected in it stays selected.

import { Component } from "preact";
import type { JSX } from "preact";

interface Props {
  text: string;
}

/** Makes the text node `node` say `text`, with as little change as possible. */
export function follow(node: Text, text: string): void {
  const shown = node.data;
  if (text === shown) return;
  if (text.startsWith(shown)) node.appendData(text.slice(shown.length));
  else if (shown.startsWith(text)) node.deleteData(text.length, shown.length - text.length);
  else node.data = text;
}

export class Leaf extends Component<Props> {
  #node: Text | null = null;

  readonly #take = (element: HTMLSpanElement | null): void => {
    if (element === null || this.#node !== null) return;
    this.#node = document.createTextNode(this.props.text);
    element.append(this.#node);
  };

  override shouldComponentUpdate({ text }: Props): boolean {
    if (this.#node !== null) follow(this.#node, text);
    return false;
  }

  override render(): JSX.Element {
    return <span class="run" ref={this.#take} />;
  }
}
