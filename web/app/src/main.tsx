// The page's entry.

import { Client } from "@everstream/client";
import { render } from "preact";

import { App } from "./shell/app.tsx";
import { Page } from "./state/page.ts";
import { Settings } from "./state/settings.ts";
import { storeOf } from "./state/storage.ts";
import { Token } from "./state/token.ts";
import "./styles/app.css";

const tab = storeOf(() => sessionStorage);
const token = new Token(tab);
const client = new Client({ token: () => token.value || null, storage: tab, name: "everstream-page/2" });
const page = new Page({ client, token, settings: new Settings(storeOf(() => localStorage)), tab });
render(<App page={page} />, document.getElementById("app") as HTMLElement);
page.start();
