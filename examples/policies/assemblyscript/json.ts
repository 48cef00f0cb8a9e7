// Reads what is asked for out of JSON text. The gateway only sends text that is well-formed, so nothing is checked
// here beyond its end.

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const COMMA = 0x2c;
const COLON = 0x3a;
const SPACE = 0x20;

/** A value within JSON text. */
export class Value {
  private start: i32;

  constructor(
    private text: string,
    start: i32 = 0,
  ) {
    this.start = pastSpace(text, start);
  }

  get isString(): bool {
    return this.text.charCodeAt(this.start) == QUOTE;
  }

  get isList(): bool {
    return this.text.charCodeAt(this.start) == OPEN_LIST;
  }

  /** The text that it is written as. */
  get source(): string {
    return this.text.substring(this.start, pastValue(this.text, this.start));
  }

  /** The member of an object, if this is one and has it. */
  member(name: string): Value | null {
    const text = this.text;
    if (text.charCodeAt(this.start) != OPEN_OBJECT) return null;
    let at = pastSpace(text, this.start + 1);
    while (text.charCodeAt(at) != CLOSE_OBJECT) {
      const key = new Value(text, at);
      const value = new Value(text, pastSpace(text, pastString(text, at)) + 1); // 1 for the colon
      if (key.asString() == name) return value;
      at = pastComma(text, pastValue(text, value.start));
    }
    return null;
  }

  /** The elements of a list. */
  elements(): Value[] {
    const text = this.text;
    const elements = new Array<Value>();
    let at = pastSpace(text, this.start + 1);
    while (text.charCodeAt(at) != CLOSE_LIST) {
      elements.push(new Value(text, at));
      at = pastComma(text, pastValue(text, at));
    }
    return elements;
  }

  /** What a string says. */
  asString(): string {
    const written = this.text.substring(this.start + 1, pastString(this.text, this.start) - 1);
    if (!written.includes('\\')) return written;
    const pieces = written.split('\\');
    let said = pieces[0];
    for (let i = 1; i < pieces.length; i++) {
      const piece = pieces[i];
      if (piece.length == 0) {
        // Two backslashes: the piece after them is plain.
        said += '\\' + pieces[++i];
        continue;
      }
      switch (piece.charCodeAt(0)) {
        case 0x75: // u
          said += String.fromCharCode(u16(parseInt(piece.substring(1, 5), 16))) + piece.substring(5);
          break;
        case 0x6e: // n
          said += '\n' + piece.substring(1);
          break;
        case 0x74: // t
          said += '\t' + piece.substring(1);
          break;
        case 0x72: // r
          said += '\r' + piece.substring(1);
          break;
        case 0x62: // b
          said += '\b' + piece.substring(1);
          break;
        case 0x66: // f
          said += '\f' + piece.substring(1);
          break;
        default: // a quote or a slash, which stands for itself
          said += piece;
      }
    }
    return said;
  }
}

function pastSpace(text: string, at: i32): i32 {
  while (at < text.length && text.charCodeAt(at) <= SPACE) at++;
  return at;
}

/** Where the next member or element begins, or the end of them. */
function pastComma(text: string, at: i32): i32 {
  at = pastSpace(text, at);
  return text.charCodeAt(at) == COMMA ? pastSpace(text, at + 1) : at;
}

function pastString(text: string, at: i32): i32 {
  at++;
  while (at < text.length && text.charCodeAt(at) != QUOTE) at += text.charCodeAt(at) == BACKSLASH ? 2 : 1;
  return at + 1;
}

function pastValue(text: string, at: i32): i32 {
  let depth = 0;
  do {
    const char = text.charCodeAt(at);
    if (char == QUOTE) {
      at = pastString(text, at);
    } else if (char == OPEN_OBJECT || char == OPEN_LIST) {
      depth++;
      at++;
    } else if (char == CLOSE_OBJECT || char == CLOSE_LIST) {
      depth--;
      at++;
    } else if (char == COMMA || char == COLON || char <= SPACE) {
      at++;
    } else {
      at = pastWord(text, at);
    }
  } while (depth > 0 && at < text.length);
  return at;
}

/** Past a number, `true`, `false` or `null`. */
function pastWord(text: string, at: i32): i32 {
  while (at < text.length) {
    const char = text.charCodeAt(at);
    if (char <= SPACE || char == COMMA || char == CLOSE_LIST || char == CLOSE_OBJECT) break;
    at++;
  }
  return at;
}
