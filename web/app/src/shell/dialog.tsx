// A dialog: the browser's own, so that focus stays inside, Escape closes it, and focus goes back to where it was.

import type { ComponentChildren, JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

export interface DialogProps {
  id: string;
  open: boolean;
  /** The reader has closed it: by Escape, or by a button of its own. */
  onClose: () => void;
  labelledBy: string;
  describedBy?: string;
  wide?: boolean;
  children: ComponentChildren;
}

export function Dialog({ id, open, onClose, labelledBy, describedBy, wide, children }: DialogProps): JSX.Element {
  const shown = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const dialog = shown.current;
    if (dialog === null || open === dialog.open) return;
    if (open) dialog.showModal();
    else dialog.close();
  }, [open]);
  return (
    <dialog
      id={id}
      ref={shown}
      class={wide ? "dialog wide" : "dialog"}
      aria-labelledby={labelledBy}
      {...(describedBy && { "aria-describedby": describedBy })}
      onCancel={(event) => {
        if (event.target !== event.currentTarget) return; // a picker in it was closed
        event.preventDefault();
        onClose();
      }}
      onMouseDown={(event) => {
        // Outside of it is its backdrop.
        if (event.target === event.currentTarget && isOutside(event, event.currentTarget)) onClose();
      }}
    >
      {children}
    </dialog>
  );
}

function isOutside({ clientX, clientY }: MouseEvent, element: Element): boolean {
  const { left, right, top, bottom } = element.getBoundingClientRect();
  return clientX < left || clientX > right || clientY < top || clientY > bottom;
}
