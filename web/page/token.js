// The token: what the page shows to be let in, and the dialog that asks for it.
//
// It is kept in sessionStorage, which is a tab's own and ends with it.  It goes into `hello` and `auth` and nowhere else:
// into no address, no form that is sent, no log.  The field is emptied as soon as the dialog closes, however it does.

const STORAGE_KEY = "everstream.token";

export class Token {
  #storage;
  #value;
  #dialog = document.getElementById("token-dialog");
  #why = document.getElementById("token-why");
  #field = document.getElementById("token");
  #connect = document.getElementById("token-connect");
  #forget = document.getElementById("forget-token");

  /**
   * `check(token)` gives a promise of what is wrong with a token, or of "" when nothing is known to be: then it is kept,
   * and `onEntered()` is called.  `onLeft()`: nobody wanted to enter one.  `onForget()`: the one there was is gone.
   */
  constructor(storage, { check, onEntered, onLeft, onForget }) {
    this.#storage = storage;
    this.#value = stored(storage);
    document.getElementById("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#enter(check, onEntered);
    });
    const leave = () => {
      this.#close();
      onLeft();
    };
    document.getElementById("token-later").addEventListener("click", leave);
    // Escape, or a phone's gesture for it.
    this.#dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      leave();
    });
    this.#forget.addEventListener("click", () => {
      this.forget();
      onForget();
    });
    this.#forget.hidden = this.#value === "";
  }

  /** The token, or "" when there is none. */
  get value() {
    return this.#value;
  }

  /** Ask for a token, and say why. */
  ask(why) {
    this.#why.textContent = why;
    if (this.#dialog.open) return;
    this.#dialog.showModal();
    this.#field.focus();
  }

  forget() {
    this.#keep("");
  }

  async #enter(check, onEntered) {
    const token = this.#field.value.trim();
    if (token === "" || this.#connect.disabled) return;
    this.#connect.disabled = true;
    const wrong = await check(token);
    this.#connect.disabled = false;
    if (!this.#dialog.open) return; // the reader has left meanwhile
    if (wrong !== "") {
      this.#why.textContent = wrong;
      this.#field.select();
      return;
    }
    this.#keep(token);
    this.#close();
    onEntered();
  }

  #close() {
    this.#field.value = "";
    this.#dialog.close();
  }

  #keep(value) {
    this.#value = value;
    this.#forget.hidden = value === "";
    try {
      if (value === "") this.#storage.removeItem(STORAGE_KEY);
      else this.#storage.setItem(STORAGE_KEY, value);
    } catch {
      // Full or forbidden: the token lasts as long as the page.
    }
  }
}

function stored(storage) {
  try {
    return storage.getItem(STORAGE_KEY) ?? "";
  } catch {
    return "";
  }
}
