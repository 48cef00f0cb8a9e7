// What the component model's canonical ABI wants of a module that exports portcullis:policy/dynamic and imports
// portcullis:policy/log: texts cross in UTF-8, as address and length. Nothing here is particular to this policy.

/** Cases of a result. */
export const OK: u32 = 0;
export const ERR: u32 = 1;

/** Levels of the log. */
export const DEBUG: u32 = 0;
export const INFO: u32 = 1;
export const WARN: u32 = 2;
export const ERROR: u32 = 3;

@external('portcullis:policy/log@0.1.0', 'write')
declare function write(level: u32, text: usize, length: usize): void;

/** Writes a line to the gateway's log. */
export function log(level: u32, text: string): void {
  const line = String.UTF8.encode(text);
  write(level, changetype<usize>(line), line.byteLength);
}

/** The host asks for memory here before it writes texts into it. */
export function cabi_realloc(old: usize, oldSize: usize, alignment: usize, size: usize): usize {
  return old == 0 ? heap.alloc(size) : heap.realloc(old, size);
}

/** The text that the host wrote at an address. */
export function taken(text: usize, length: usize): string {
  const taken = String.UTF8.decodeUnsafe(text, length);
  if (length > 0) heap.free(text);
  return taken;
}

// Where a call leaves its result, and the text that the result tells the address of, until the next one.
const place: StaticArray<usize> = [0, 0, 0];
let text: ArrayBuffer = new ArrayBuffer(0);

/** A text as the result of a function. */
export function give(answer: string): usize {
  text = String.UTF8.encode(answer);
  place[0] = changetype<usize>(text);
  place[1] = text.byteLength;
  return changetype<usize>(place);
}

/** A result with a text in either case. */
export function giveResult(which: u32, answer: string): usize {
  text = String.UTF8.encode(answer);
  place[0] = which;
  place[1] = changetype<usize>(text);
  place[2] = text.byteLength;
  return changetype<usize>(place);
}
