;; deny-destructive: denies every tool that may destroy something. The typed lane, by hand.
;;
;; Everything that this policy ever answers is written down in its memory beforehand; its one decision is which of two
;; verdicts to point at. The layout of records is that of the component model's canonical ABI: members in order, each
;; aligned to its own size; a string or list is address and length; an option or variant is a byte with the number of
;; the case, then the payload. Numbers are little-endian, and what is not written is zero.
(module
  (memory (export "memory") 1)

  ;; ---- texts --------------------------------------------------------------------------------------------------------

  (data (i32.const 0x400) "deny-destructive")
  (data (i32.const 0x410) "0.1.0")
  (data (i32.const 0x420) "Denies tools that may destroy something")
  (data (i32.const 0x450) "Apache-2.0")
  (data (i32.const 0x460) "{\"type\":\"object\",\"additionalProperties\":false}")
  (data (i32.const 0x490) "{}")
  (data (i32.const 0x4a0) "destructive")
  (data (i32.const 0x4b0) "This tool may delete or overwrite something, which the operator does not allow.")

  ;; ---- records ------------------------------------------------------------------------------------------------------

  ;; manifest.info at 0x40.
  (data (i32.const 0x40)
    "\00\04\00\00" "\10\00\00\00"                    ;; name
    "\10\04\00\00" "\05\00\00\00"                    ;; version
    "\20\04\00\00" "\27\00\00\00"                    ;; title
    "\01\00\00\00" "\50\04\00\00" "\0a\00\00\00"     ;; license: some
    "\a0\00\00\00" "\01\00\00\00"                    ;; hooks
    "\00\00\00\00" "\00\00\00\00"                    ;; mutates: none
    "\00\00\00\00" "\00\00\00\00"                    ;; needs: none, so that no arguments are sent
    "\00"                                            ;; capabilities: none
    "\00"                                            ;; determinism: pure
    "\00\00"                                         ;; alignment
    "\60\04\00\00" "\2e\00\00\00"                    ;; config-schema
    "\90\04\00\00" "\02\00\00\00")                   ;; sample-config; min-host, an option, is none

  ;; The list of hooks at 0xa0: number 6 of manifest.hook is tool-call.
  (data (i32.const 0xa0) "\06")

  ;; The result of `configure` at 0xb0: case 0, ok, with an empty list of warnings. All of it is zero.

  ;; types.verdict at 0xc0: case 1, allow, with a permit that changes nothing.
  (data (i32.const 0xc0) "\01")

  ;; types.verdict at 0x100: case 2, deny. A verdict is aligned to 8 bytes, since one of its cases has a u64.
  (data (i32.const 0x100)
    "\02\00\00\00\00\00\00\00"
    "\a0\04\00\00" "\0b\00\00\00"                    ;; reason.code
    "\b0\04\00\00" "\4f\00\00\00")                   ;; reason.message; the options that follow are none
  (data (i32.const 0x144) "\01")                     ;; as-tool-error

  ;; ---- functions ----------------------------------------------------------------------------------------------------

  (func (export "portcullis:policy/manifest@0.1.0#describe") (result i32)
    (i32.const 0x40))

  ;; Text and length of the configuration. The schema admits nothing but `{}`, so there is nothing to read.
  (func (export "portcullis:policy/configuration@0.1.0#configure") (param i32 i32) (result i32)
    (i32.const 0xb0))

  ;; The address of types.context, 192 bytes, and right after it tool-call.request, which begins with the tool. Its
  ;; hints, a byte with a bit for each, are after three strings; `destructive` is the second bit.
  (func (export "portcullis:policy/tool-call@0.1.0#before") (param $arguments i32) (result i32)
    (select
      (i32.const 0x100)
      (i32.const 0xc0)
      (i32.and (i32.load8_u offset=216 (local.get $arguments)) (i32.const 2))))

  ;; ---- memory -------------------------------------------------------------------------------------------------------

  ;; The first address that is free.
  (global $free (mut i32) (i32.const 0x800))

  ;; The host asks for memory here before it writes the records and texts of a call into it. It never asks to move
  ;; something, and nothing is given back before the call is over.
  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $alignment i32) (param $size i32) (result i32)
    (local $address i32)
    ;; The next multiple of the alignment, which is a power of two.
    (local.set $address
      (i32.and
        (i32.add (global.get $free) (i32.sub (local.get $alignment) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $alignment))))
    (global.set $free (i32.add (local.get $address) (local.get $size)))
    (block $enough
      (loop $more
        (br_if $enough (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 0x10000))))
        (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (unreachable)) ;; no more memory: ends the call, which the gateway takes for a refusal
    (local.get $address))

  ;; The host calls this when it has read an answer.
  (func (export "cabi_post_portcullis:policy/tool-call@0.1.0#before") (param i32)
    (global.set $free (i32.const 0x800)))
)
