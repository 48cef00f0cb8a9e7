// What the component model's canonical ABI wants of a module that exports portcullis:policy/dynamic and imports
// portcullis:policy/log: texts cross as address and length. Nothing here is particular to this policy.

package main

import (
	"encoding/json"
	"runtime"
	"unsafe"
)

const (
	levelDebug = iota
	levelInfo
	levelWarn
	levelError
)

//go:wasmimport portcullis:policy/log@0.1.0 write
func logWrite(level uint32, text unsafe.Pointer, length uint32)

// log writes a line to the gateway's log.
func log(level uint32, text string) {
	logWrite(level, unsafe.Pointer(unsafe.StringData(text)), uint32(len(text)))
	runtime.KeepAlive(text)
}

// held keeps what the host was given an address of, or wrote, from being collected until the call is over.
var held [][]byte

// answer is where a call leaves its result: the case, 0 for ok and 1 for err, then the text's address and length.
var answer [3]uint32

//go:wasmexport cabi_realloc
func reallocate(old unsafe.Pointer, oldSize, alignment, size uint32) unsafe.Pointer {
	// In 8-byte words, since that is the strictest alignment there is.
	words := make([]uint64, size/8+1)
	memory := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), size)
	copy(memory, unsafe.Slice((*byte)(old), min(oldSize, size)))
	held = append(held, memory)
	return unsafe.Pointer(&words[0])
}

//go:wasmexport portcullis:policy/dynamic@0.1.0#describe
func exportDescribe() unsafe.Pointer {
	answer = [3]uint32{}
	give([]byte(manifest), answer[0:2])
	return unsafe.Pointer(&answer)
}

//go:wasmexport portcullis:policy/dynamic@0.1.0#configure
func exportConfigure(text unsafe.Pointer, length uint32) unsafe.Pointer {
	if problems := configure(unsafe.Slice((*byte)(text), length)); len(problems) > 0 {
		return giveResult(problems, 1)
	}
	return giveResult([]string{}, 0)
}

//go:wasmexport portcullis:policy/dynamic@0.1.0#decide
func exportDecide(hook unsafe.Pointer, hookLength uint32, input unsafe.Pointer, inputLength uint32) unsafe.Pointer {
	decision, err := decide(string(unsafe.Slice((*byte)(hook), hookLength)), unsafe.Slice((*byte)(input), inputLength))
	if err != nil {
		answer[0] = 1
		give([]byte(err.Error()), answer[1:3])
		return unsafe.Pointer(&answer)
	}
	return giveResult(decision, 0)
}

//go:wasmexport cabi_post_portcullis:policy/dynamic@0.1.0#describe
func afterDescribe(unsafe.Pointer) { held = nil }

//go:wasmexport cabi_post_portcullis:policy/dynamic@0.1.0#configure
func afterConfigure(unsafe.Pointer) { held = nil }

//go:wasmexport cabi_post_portcullis:policy/dynamic@0.1.0#decide
func afterDecide(unsafe.Pointer) { held = nil }

func giveResult(value any, which uint32) unsafe.Pointer {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // ends the call, which the gateway takes for a refusal
	}
	answer[0] = which
	give(text, answer[1:3])
	return unsafe.Pointer(&answer)
}

func give(text []byte, place []uint32) {
	held = append(held, text)
	place[0] = uint32(uintptr(unsafe.Pointer(unsafe.SliceData(text))))
	place[1] = uint32(len(text))
}

// A library for the host to call has no main of its own.
func main() {}
