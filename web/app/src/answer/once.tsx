// What is drawn once: as long as it is of the same thing, it is left alone, however often what is around it is drawn
// again.
//
// It could as well keep the vnode it was drawn as.  But a vnode knows its parent, which knows its children: whoever
// keeps one from each of many drawings keeps all that those drawings were.

import { Component } from "preact";
import type { VNode } from "preact";

interface Props {
  /** What it is drawn of. */
  of: object;
  draw: () => VNode;
}

export class Once extends Component<Props> {
  override shouldComponentUpdate({ of }: Readonly<Props>): boolean {
    return of !== this.props.of;
  }

  override render({ draw }: Readonly<Props>): VNode {
    return draw();
  }
}
