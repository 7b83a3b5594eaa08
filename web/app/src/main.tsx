// The page's entry.

import { render } from "preact";

import { App } from "./shell/app.tsx";
import "./styles/page.css";
import "./styles/answer.css";

render(<App />, document.getElementById("app") as HTMLElement);
