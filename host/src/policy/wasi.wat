;; `wasi_snapshot_preview1` out of nothing but the guest's own memory and `log`: see wasi.rs.
;; Error numbers: 0 success, 8 EBADF (no such descriptor), 52 ENOSYS (not here).
(module
  (import "portcullis:policy/log@0.1.0" "write" (func $log (param $level i32) (param $at i32) (param $length i32)))
  (import "env" "memory" (memory 0))

  ;; Nanoseconds since the Unix epoch: it begins with 2026.
  (global $clock (mut i64) (i64.const 1767225600000000000))
  ;; State of xorshift64*, which is never 0.
  (global $seed (mut i64) (i64.const 0x9e3779b97f4a7c15))

  ;; Nothing is handed to the guest: no arguments, no environment.
  (func $none (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $bytes) (i32.const 0))
    (i32.const 0))
  (export "args_sizes_get" (func $none))
  (export "environ_sizes_get" (func $none))
  (func (export "args_get") (param i32 i32) (result i32) (i32.const 0))
  (func (export "environ_get") (param i32 i32) (result i32) (i32.const 0))

  ;; A clock that goes on by a microsecond whenever it is looked at, so that nobody waits for it for ever.
  (func (export "clock_res_get") (param $clock i32) (param $to i32) (result i32)
    (i64.store (local.get $to) (i64.const 1000))
    (i32.const 0))
  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $to i32) (result i32)
    (global.set $clock (i64.add (global.get $clock) (i64.const 1000)))
    (i64.store (local.get $to) (global.get $clock))
    (i32.const 0))

  ;; Every event has happened when it is asked for; waiting for a time makes it that time.
  (func (export "poll_oneoff")
      (param $wanted i32) (param $events i32) (param $count i32) (param $happened i32) (result i32)
    (local $left i32) (local $until i64)
    (i32.store (local.get $happened) (local.get $count))
    (local.set $left (local.get $count))
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $left)))
      (if (i32.eqz (i32.load8_u offset=8 (local.get $wanted)))
        (then
          (local.set $until (i64.load offset=24 (local.get $wanted)))
          (if (i32.eqz (i32.and (i32.load16_u offset=40 (local.get $wanted)) (i32.const 1)))
            (then (local.set $until (i64.add (global.get $clock) (local.get $until)))))
          (if (i64.gt_u (local.get $until) (global.get $clock)) (then (global.set $clock (local.get $until))))))
      ;; The same user data, no error, the same kind, nothing to read.
      (i64.store (local.get $events) (i64.load (local.get $wanted)))
      (i64.store offset=8 (local.get $events) (i64.const 0))
      (i32.store8 offset=10 (local.get $events) (i32.load8_u offset=8 (local.get $wanted)))
      (i64.store offset=16 (local.get $events) (i64.const 0))
      (i64.store offset=24 (local.get $events) (i64.const 0))
      (local.set $wanted (i32.add (local.get $wanted) (i32.const 48)))
      (local.set $events (i32.add (local.get $events) (i32.const 32)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br $next)))
    (i32.const 0))

  ;; The same bytes in every instance: for hash tables, and for nothing that must be secret.
  (func (export "random_get") (param $to i32) (param $length i32) (result i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $to) (local.get $length)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $to) (local.get $end)))
      (global.set $seed (i64.xor (global.get $seed) (i64.shr_u (global.get $seed) (i64.const 12))))
      (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 25))))
      (global.set $seed (i64.xor (global.get $seed) (i64.shr_u (global.get $seed) (i64.const 27))))
      (i64.store8 (local.get $to)
        (i64.shr_u (i64.mul (global.get $seed) (i64.const 0x2545f4914f6cdd1d)) (i64.const 56)))
      (local.set $to (i32.add (local.get $to) (i32.const 1)))
      (br $next)))
    (i32.const 0))

  ;; Whether these bytes are UTF-8, as lines of the log must be.
  (func $is_text (param $at i32) (param $length i32) (result i32)
    (local $end i32) (local $byte i32) (local $more i32) (local $low i32) (local $high i32)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $byte (i32.load8_u (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $byte) (i32.const 0x80)))
      (if (i32.lt_u (local.get $byte) (i32.const 0xc2)) (then (return (i32.const 0))))
      (if (i32.gt_u (local.get $byte) (i32.const 0xf4)) (then (return (i32.const 0))))
      ;; How many bytes follow, and which the first of them may be.
      (local.set $more
        (i32.add (i32.const 1)
          (i32.add (i32.ge_u (local.get $byte) (i32.const 0xe0)) (i32.ge_u (local.get $byte) (i32.const 0xf0)))))
      (local.set $low (i32.const 0x80))
      (local.set $high (i32.const 0xbf))
      (if (i32.eq (local.get $byte) (i32.const 0xe0)) (then (local.set $low (i32.const 0xa0))))
      (if (i32.eq (local.get $byte) (i32.const 0xed)) (then (local.set $high (i32.const 0x9f))))
      (if (i32.eq (local.get $byte) (i32.const 0xf0)) (then (local.set $low (i32.const 0x90))))
      (if (i32.eq (local.get $byte) (i32.const 0xf4)) (then (local.set $high (i32.const 0x8f))))
      (loop $follows
        (if (i32.ge_u (local.get $at) (local.get $end)) (then (return (i32.const 0))))
        (local.set $byte (i32.load8_u (local.get $at)))
        (if (i32.lt_u (local.get $byte) (local.get $low)) (then (return (i32.const 0))))
        (if (i32.gt_u (local.get $byte) (local.get $high)) (then (return (i32.const 0))))
        (local.set $low (i32.const 0x80))
        (local.set $high (i32.const 0xbf))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $more (i32.sub (local.get $more) (i32.const 1)))
        (br_if $follows (local.get $more)))
      (br $next)))
    (i32.const 1))

  ;; One piece of output becomes one line, without the line's end; what is no text is dropped.
  (func $say (param $level i32) (param $at i32) (param $length i32)
    (block $trimmed (loop $trim
      (br_if $trimmed (i32.eqz (local.get $length)))
      (br_if $trimmed
        (i32.ne
          (i32.load8_u (i32.sub (i32.add (local.get $at) (local.get $length)) (i32.const 1)))
          (i32.const 10)))
      (local.set $length (i32.sub (local.get $length) (i32.const 1)))
      (br $trim)))
    ;; The host cuts lines at 2 KiB. Here they are cut where a character ends.
    (if (i32.gt_u (local.get $length) (i32.const 2048))
      (then
        (local.set $length (i32.const 2048))
        (block $cut (loop $back
          (br_if $cut (i32.eqz (local.get $length)))
          (br_if $cut
            (i32.ne
              (i32.and (i32.load8_u (i32.add (local.get $at) (local.get $length))) (i32.const 0xc0))
              (i32.const 0x80)))
          (local.set $length (i32.sub (local.get $length) (i32.const 1)))
          (br $back)))))
    (if (i32.eqz (local.get $length)) (then (return)))
    (if (call $is_text (local.get $at) (local.get $length))
      (then (call $log (local.get $level) (local.get $at) (local.get $length)))))

  ;; Standard output is told as information, standard error as a warning.
  (func (export "fd_write") (param $to i32) (param $pieces i32) (param $count i32) (param $written i32) (result i32)
    (local $sum i32) (local $length i32)
    (if (i32.and (i32.ne (local.get $to) (i32.const 1)) (i32.ne (local.get $to) (i32.const 2)))
      (then (return (i32.const 8))))
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $count)))
      (local.set $length (i32.load offset=4 (local.get $pieces)))
      (call $say (local.get $to) (i32.load (local.get $pieces)) (local.get $length))
      (local.set $sum (i32.add (local.get $sum) (local.get $length)))
      (local.set $pieces (i32.add (local.get $pieces) (i32.const 8)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $next)))
    (i32.store (local.get $written) (local.get $sum))
    (i32.const 0))

  ;; Standard input is at its end.
  (func (export "fd_read") (param $from i32) (param $pieces i32) (param $count i32) (param $read i32) (result i32)
    (if (local.get $from) (then (return (i32.const 8))))
    (i32.store (local.get $read) (i32.const 0))
    (i32.const 0))

  ;; The three standard streams are terminals; there are no other descriptors, and none is a directory.
  (func (export "fd_fdstat_get") (param $of i32) (param $to i32) (result i32)
    (if (i32.gt_u (local.get $of) (i32.const 2)) (then (return (i32.const 8))))
    (i64.store (local.get $to) (i64.const 2))
    (i64.store offset=8 (local.get $to) (i64.const -1))
    (i64.store offset=16 (local.get $to) (i64.const -1))
    (i32.const 0))
  (func (export "fd_fdstat_set_flags") (param $of i32) (param $flags i32) (result i32)
    (select (i32.const 8) (i32.const 0) (i32.gt_u (local.get $of) (i32.const 2))))
  (func (export "fd_close") (param $which i32) (result i32)
    (select (i32.const 8) (i32.const 0) (i32.gt_u (local.get $which) (i32.const 2))))
  (func (export "fd_prestat_get") (param $of i32) (param $to i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_dir_name") (param $of i32) (param $to i32) (param $length i32) (result i32) (i32.const 8))

  (func (export "sched_yield") (result i32) (i32.const 0))
  ;; A guest that gives up gives no answer.
  (func (export "proc_exit") (param $code i32) unreachable)

  ;; Not here.
  (func (export "fd_advise") (param i32 i64 i64 i32) (result i32) (i32.const 52))
  (func (export "fd_allocate") (param i32 i64 i64) (result i32) (i32.const 52))
  (func (export "fd_datasync") (param i32) (result i32) (i32.const 52))
  (func (export "fd_fdstat_set_rights") (param i32 i64 i64) (result i32) (i32.const 52))
  (func (export "fd_filestat_get") (param i32 i32) (result i32) (i32.const 52))
  (func (export "fd_filestat_set_size") (param i32 i64) (result i32) (i32.const 52))
  (func (export "fd_filestat_set_times") (param i32 i64 i64 i32) (result i32) (i32.const 52))
  (func (export "fd_pread") (param i32 i32 i32 i64 i32) (result i32) (i32.const 52))
  (func (export "fd_pwrite") (param i32 i32 i32 i64 i32) (result i32) (i32.const 52))
  (func (export "fd_readdir") (param i32 i32 i32 i64 i32) (result i32) (i32.const 52))
  (func (export "fd_renumber") (param i32 i32) (result i32) (i32.const 52))
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) (i32.const 52))
  (func (export "fd_sync") (param i32) (result i32) (i32.const 52))
  (func (export "fd_tell") (param i32 i32) (result i32) (i32.const 52))
  (func (export "path_create_directory") (param i32 i32 i32) (result i32) (i32.const 52))
  (func (export "path_filestat_get") (param i32 i32 i32 i32 i32) (result i32) (i32.const 52))
  (func (export "path_filestat_set_times") (param i32 i32 i32 i32 i64 i64 i32) (result i32) (i32.const 52))
  (func (export "path_link") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 52))
  (func (export "path_open") (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32) (i32.const 52))
  (func (export "path_readlink") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 52))
  (func (export "path_remove_directory") (param i32 i32 i32) (result i32) (i32.const 52))
  (func (export "path_rename") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 52))
  (func (export "path_symlink") (param i32 i32 i32 i32 i32) (result i32) (i32.const 52))
  (func (export "path_unlink_file") (param i32 i32 i32) (result i32) (i32.const 52))
  (func (export "proc_raise") (param i32) (result i32) (i32.const 52))
  (func (export "sock_accept") (param i32 i32 i32) (result i32) (i32.const 52))
  (func (export "sock_recv") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 52))
  (func (export "sock_send") (param i32 i32 i32 i32 i32) (result i32) (i32.const 52))
  (func (export "sock_shutdown") (param i32 i32) (result i32) (i32.const 52)))
