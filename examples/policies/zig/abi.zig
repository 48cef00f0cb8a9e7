//! What the component model's canonical ABI wants of a module that exports portcullis:policy/dynamic and imports
//! portcullis:policy/log: texts cross as address and length. Nothing here is particular to this policy.

const std = @import("std");
const policy = @import("root");

/// Memory of one call, and memory that stays.
var call: std.heap.ArenaAllocator = .init(std.heap.wasm_allocator);
const kept = std.heap.wasm_allocator;

pub const Level = enum(u32) { debug, info, warn, @"error" };

extern "portcullis:policy/log@0.1.0" fn write(level: Level, text: [*]const u8, length: usize) void;

/// Writes a line to the gateway's log.
pub fn log(level: Level, text: []const u8) void {
    write(level, text.ptr, text.len);
}

/// A text as the host reads it.
const Text = extern struct {
    address: [*]const u8,
    length: usize,

    fn of(text: []const u8) Text {
        return .{ .address = text.ptr, .length = text.len };
    }
};

/// A result with a text in either case.
const Result = extern struct { case: enum(u8) { ok, err }, text: Text };

// Where a call leaves what it answers, until the host has read it.
var given_text: Text = undefined;
var given: Result = undefined;

/// The host asks for memory here before it writes texts into it.
export fn cabi_realloc(old: ?[*]u8, old_size: usize, alignment: usize, size: usize) ?[*]u8 {
    std.debug.assert(alignment == 1); // nothing but texts crosses
    const memory: []u8 = if (old) |address| address[0..old_size] else &.{};
    return (call.allocator().realloc(memory, size) catch @trap()).ptr;
}

export fn @"portcullis:policy/dynamic@0.1.0#describe"() *const Text {
    given_text = .of(policy.manifest);
    return &given_text;
}

export fn @"portcullis:policy/dynamic@0.1.0#configure"(text: [*]const u8, length: usize) *const Result {
    const problems = policy.configure(kept, text[0..length]) catch |mistake|
        &.{policy.Problem{ .path = "", .message = @errorName(mistake) }};
    if (problems.len == 0) return ok("[]");
    return err(std.json.Stringify.valueAlloc(call.allocator(), problems, .{}) catch @trap());
}

export fn @"portcullis:policy/dynamic@0.1.0#decide"(
    hook: [*]const u8,
    hook_length: usize,
    input: [*]const u8,
    input_length: usize,
) *const Result {
    const answer = policy.decide(call.allocator(), hook[0..hook_length], input[0..input_length]);
    return ok(answer catch |mistake| return err(@errorName(mistake)));
}

export fn @"cabi_post_portcullis:policy/dynamic@0.1.0#configure"(_: *const Result) void {
    _ = call.reset(.retain_capacity);
}

export fn @"cabi_post_portcullis:policy/dynamic@0.1.0#decide"(_: *const Result) void {
    _ = call.reset(.retain_capacity);
}

fn ok(text: []const u8) *const Result {
    given = .{ .case = .ok, .text = .of(text) };
    return &given;
}

fn err(text: []const u8) *const Result {
    given = .{ .case = .err, .text = .of(text) };
    return &given;
}
