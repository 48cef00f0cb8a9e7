//! guard-paths: denies the tools on the operator's list, and paths outside of the operator's directories.

const std = @import("std");
const abi = @import("abi.zig");
const json = std.json;
const Allocator = std.mem.Allocator;

comptime {
    _ = abi; // its exported functions call those of this file
}

// Set by `configure`. Every decision begins with what it left here, and with nothing else.
var deny: []const []const u8 = &.{};
var roots: []const []const u8 = &.{};

pub const manifest =
    \\{
    \\  "name": "guard-paths",
    \\  "version": "0.1.0",
    \\  "title": "Denies listed tools, and paths outside of listed directories",
    \\  "license": "Apache-2.0",
    \\  "hooks": ["list-tools", "tool-call"],
    \\  "needs": [{"hook": "tool-call", "arguments": "full", "output": "none", "texts": false}],
    \\  "capabilities": [],
    \\  "determinism": "pure",
    \\  "config_schema": {
    \\    "type": "object",
    \\    "properties": {
    \\      "deny": {"type": "array", "items": {"type": "string"}, "description": "Names of tools; * stands for any characters"},
    \\      "roots": {"type": "array", "items": {"type": "string"}, "description": "Directories that the argument path may be in"}
    \\    },
    \\    "required": ["roots"],
    \\    "additionalProperties": false
    \\  },
    \\  "sample_config": {"deny": ["delete_*"], "roots": ["/srv/"]}
    \\}
;

/// Why a configuration cannot be used.
pub const Problem = struct { path: []const u8, message: []const u8 };

/// Takes over a configuration, or tells what is wrong with it. `memory` stays.
pub fn configure(memory: Allocator, text: []const u8) ![]const Problem {
    const config = (try json.parseFromSliceLeaky(json.Value, memory, text, .{ .allocate = .alloc_always })).object;
    var problems: std.ArrayList(Problem) = .empty;

    const patterns = if (config.get("deny")) |value| try strings(memory, value) else &.{};
    if (patterns == null) try problems.append(memory, .{ .path = "/deny", .message = "must be a list of strings" });

    const directories = if (config.get("roots")) |value| try strings(memory, value) else null;
    if (directories == null) try problems.append(memory, .{ .path = "/roots", .message = "must be a list of strings" });
    for (directories orelse &.{}, 0..) |directory, index| {
        if (std.mem.startsWith(u8, directory, "/")) continue;
        const path = try std.fmt.allocPrint(memory, "/roots/{d}", .{index});
        try problems.append(memory, .{ .path = path, .message = "must begin with /" });
    }
    deny = patterns orelse &.{};
    roots = directories orelse &.{};
    return problems.items;
}

/// The strings of a list, if it is one.
fn strings(memory: Allocator, value: json.Value) !?[]const []const u8 {
    if (value != .array) return null;
    const list = try memory.alloc([]const u8, value.array.items.len);
    for (value.array.items, list) |item, *string| {
        if (item != .string) return null;
        string.* = item.string;
    }
    return list;
}

const Tool = struct { name: []const u8 };
const Ask = struct {
    tools: []const Tool = &.{},
    request: struct { tool: Tool = .{ .name = "" }, arguments: json.Value = .null } = .{},
};

/// The answer of a hook as JSON text. `memory` lasts until the call is over.
pub fn decide(memory: Allocator, hook: []const u8, input: []const u8) ![]const u8 {
    const ask = try json.parseFromSliceLeaky(Ask, memory, input, .{ .ignore_unknown_fields = true });
    if (std.mem.eql(u8, hook, "list-tools")) return listTools(memory, ask.tools);
    if (std.mem.eql(u8, hook, "tool-call")) return toolCall(memory, ask.request.tool, ask.request.arguments);
    return error.NoSuchHook;
}

fn listTools(memory: Allocator, tools: []const Tool) ![]const u8 {
    const visible = try memory.alloc([]const u8, tools.len);
    for (tools, visible) |tool, *entry| entry.* = if (patternOver(tool.name) == null) "show" else "hide";
    return json.Stringify.valueAlloc(memory, .{ .visible = visible }, .{});
}

fn toolCall(memory: Allocator, tool: Tool, arguments: json.Value) ![]const u8 {
    if (patternOver(tool.name)) |pattern| {
        return denial(memory, .{ .code = "guard.tool", .message = "The operator does not let this tool be called.", .rule = pattern });
    }
    const path = if (arguments == .object) arguments.object.get("path") else null;
    if (path != null and !isInside(path.?)) {
        abi.log(.info, "denied a path outside of the allowed directories");
        return denial(memory, .{ .code = "guard.path", .message = "This path is outside of the directories that the operator allows." });
    }
    return "{\"allow\":{}}";
}

fn denial(memory: Allocator, reason: anytype) ![]const u8 {
    return json.Stringify.valueAlloc(memory, .{ .deny = .{ .reason = reason } }, .{});
}

/// The first pattern on the list that matches the name.
fn patternOver(name: []const u8) ?[]const u8 {
    for (deny) |pattern| if (matches(pattern, name)) return pattern;
    return null;
}

/// Whether the whole name fits the pattern, in which `*` stands for any characters.
fn matches(pattern: []const u8, name: []const u8) bool {
    const first = std.mem.findScalar(u8, pattern, '*') orelse return std.mem.eql(u8, pattern, name);
    const last = std.mem.findScalarLast(u8, pattern, '*').?;
    if (!std.mem.startsWith(u8, name, pattern[0..first])) return false;
    var rest = name[first..];
    var pieces = std.mem.splitScalar(u8, pattern[first..last], '*');
    while (pieces.next()) |piece| {
        const found = std.mem.find(u8, rest, piece) orelse return false;
        rest = rest[found + piece.len ..];
    }
    return std.mem.endsWith(u8, rest, pattern[last + 1 ..]);
}

/// Whether the value is an absolute path that leads nowhere by `..`, and is one of the directories or within one.
fn isInside(value: json.Value) bool {
    if (value != .string or !std.mem.startsWith(u8, value.string, "/")) return false;
    const path = value.string;
    var steps = std.mem.splitScalar(u8, path, '/');
    while (steps.next()) |step| if (std.mem.eql(u8, step, "..")) return false;
    for (roots) |root| {
        const directory = std.mem.trimEnd(u8, root, "/");
        if (!std.mem.startsWith(u8, path, directory)) continue;
        if (path.len == directory.len or path[directory.len] == '/') return true;
    }
    return false;
}
