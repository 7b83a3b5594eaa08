// Parts that few readers open: each is loaded when it is first wanted.  Where one breaks, the page goes on without it.

import type { ComponentType, JSX } from "preact";
import { useEffect, useErrorBoundary, useState } from "preact/hooks";

interface LazilyProps<Props> {
  load: () => Promise<ComponentType<Props>>;
  props: Props;
  onFailed: () => void;
}

/**
 * The component that `load` gives, once it is here.  `load` is asked once, when this is first shown.  `onFailed` is
 * told where it cannot be had, or breaks.
 */
export function Lazily<Props extends object>({ load, props, onFailed }: LazilyProps<Props>): JSX.Element {
  const [loaded, setLoaded] = useState<{ Part: ComponentType<Props> } | null>(null);
  useEffect(() => {
    let wanted = true;
    load().then(
      (Part) => wanted && setLoaded({ Part }),
      () => wanted && onFailed(),
    );
    return () => void (wanted = false);
  }, []);
  const [broken] = useErrorBoundary();
  useEffect(() => {
    if (broken !== undefined && broken !== null) onFailed();
  }, [broken]);
  if (broken !== undefined && broken !== null) return <p class="loading" />;
  if (loaded === null) {
    return (
      <p class="loading" role="status">
        loading …
      </p>
    );
  }
  return <loaded.Part {...props} />;
}
