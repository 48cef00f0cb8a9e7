// guard-paths: denies the tools on the operator's list, and paths outside of the operator's directories.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "contract.h"
#include "json.h"

// Most patterns, and most directories, that a configuration may have.
#define MOST_ENTRIES 256

typedef struct {
  bytes_t entries[MOST_ENTRIES];
  size_t count;
} entries_t;

// Set by `configure`. Every decision begins with what it left here, and with nothing else.
static entries_t denied;
static entries_t roots;

static const char SCHEMA[] =
    "{\"type\":\"object\",\"properties\":{"
    "\"deny\":{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"maxItems\":256,"
    "\"description\":\"Names of tools; * stands for any characters\"},"
    "\"roots\":{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"maxItems\":256,"
    "\"description\":\"Directories that the argument path may be in\"}},"
    "\"required\":[\"roots\"],\"additionalProperties\":false}";

// Everything that is handed to the host is allocated: the bindings free it when the host has read it.
static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count, size);
  if (memory == NULL) abort(); // ends the call, which the gateway takes for a refusal
  return memory;
}

void exports_manifest_describe(exports_manifest_info_t *info) {
  memset(info, 0, sizeof *info);
  contract_string_dup(&info->name, "guard-paths");
  contract_string_dup(&info->version, "0.1.0");
  contract_string_dup(&info->title, "Denies listed tools, and paths outside of listed directories");
  info->license.is_some = true;
  contract_string_dup(&info->license.val, "Apache-2.0");
  info->hooks.len = 2;
  info->hooks.ptr = allocate(2, sizeof *info->hooks.ptr);
  info->hooks.ptr[0] = EXPORTS_MANIFEST_HOOK_LIST_TOOLS;
  info->hooks.ptr[1] = EXPORTS_MANIFEST_HOOK_TOOL_CALL;
  info->needs.len = 1;
  info->needs.ptr = allocate(1, sizeof *info->needs.ptr);
  info->needs.ptr[0].hook = EXPORTS_MANIFEST_HOOK_TOOL_CALL;
  info->needs.ptr[0].arguments = EXPORTS_MANIFEST_PAYLOAD_FULL;
  info->determinism = EXPORTS_MANIFEST_DETERMINISM_PURE;
  contract_string_dup(&info->config_schema, SCHEMA);
  contract_string_dup(&info->sample_config, "{\"deny\":[\"delete_*\"],\"roots\":[\"/srv/\"]}");
}

// ---- configuration ----------------------------------------------------------------------------------------------

static void report(exports_configuration_list_problem_t *problems, const char *path, const char *message) {
  problems->ptr = realloc(problems->ptr, (problems->len + 1) * sizeof *problems->ptr);
  if (problems->ptr == NULL) abort();
  contract_string_dup(&problems->ptr[problems->len].path, path);
  contract_string_dup(&problems->ptr[problems->len].message, message);
  problems->len++;
}

static void read_entries(json_t list, const char *path, entries_t *entries, exports_configuration_list_problem_t *problems) {
  entries->count = 0;
  if (!json_is_list(list)) {
    report(problems, path, "must be a list of strings");
    return;
  }
  for (json_t entry = json_first(list); entry.at != NULL; entry = json_next(entry)) {
    if (!json_is_string(entry) || entries->count == MOST_ENTRIES) {
      report(problems, path, "must be a list of at most 256 strings");
      return;
    }
    entries->entries[entries->count++] = json_string(entry);
  }
}

bool exports_configuration_configure(contract_string_t *text, contract_list_string_t *warnings,
                                     exports_configuration_list_problem_t *problems) {
  json_t config = json_of(text->ptr, text->len), deny = json_member(config, "deny");
  memset(problems, 0, sizeof *problems);
  memset(warnings, 0, sizeof *warnings);
  denied.count = 0;
  if (deny.at != NULL) read_entries(deny, "/deny", &denied, problems);
  read_entries(json_member(config, "roots"), "/roots", &roots, problems);
  for (size_t i = 0; i < roots.count; i++) {
    if (roots.entries[i].length > 0 && roots.entries[i].bytes[0] == '/') continue;
    char path[32];
    snprintf(path, sizeof path, "/roots/%zu", i);
    report(problems, path, "must begin with /");
  }
  contract_string_free(text);
  return problems->len == 0;
}

// ---- decisions --------------------------------------------------------------------------------------------------

// Whether the whole name fits the pattern, in which `*` stands for any characters.
static bool matches(bytes_t pattern, const contract_string_t *name) {
  size_t p = 0, n = 0, star = SIZE_MAX, resume = 0;
  while (n < name->len) {
    if (p < pattern.length && pattern.bytes[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.length && (uint8_t)pattern.bytes[p] == name->ptr[n]) {
      p++;
      n++;
    } else if (star != SIZE_MAX) {
      // The last star takes one more byte.
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.length && pattern.bytes[p] == '*') p++;
  return p == pattern.length;
}

// The first pattern on the list that matches the name.
static const bytes_t *pattern_over(const contract_string_t *name) {
  for (size_t i = 0; i < denied.count; i++) {
    if (matches(denied.entries[i], name)) return &denied.entries[i];
  }
  return NULL;
}

static bool leads_up(bytes_t path) {
  for (size_t start = 0, i = 0; i <= path.length; i++) {
    if (i < path.length && path.bytes[i] != '/') continue;
    if (i - start == 2 && memcmp(path.bytes + start, "..", 2) == 0) return true;
    start = i + 1;
  }
  return false;
}

// Whether the path is absolute, leads nowhere by `..`, and is one of the directories or within one.
static bool is_inside(bytes_t path) {
  if (path.length == 0 || path.bytes[0] != '/' || leads_up(path)) return false;
  for (size_t i = 0; i < roots.count; i++) {
    const char *root = roots.entries[i].bytes;
    size_t length = roots.entries[i].length;
    while (length > 0 && root[length - 1] == '/') length--;
    if (path.length < length || memcmp(path.bytes, root, length) != 0) continue;
    if (path.length == length || path.bytes[length] == '/') return true;
  }
  return false;
}

static void deny(types_verdict_t *verdict, const char *code, const char *message) {
  memset(verdict, 0, sizeof *verdict);
  verdict->tag = TYPES_VERDICT_DENY;
  contract_string_dup(&verdict->val.deny.reason.code, code);
  contract_string_dup(&verdict->val.deny.reason.message, message);
  verdict->val.deny.as_tool_error = true;
}

void exports_tool_call_before(exports_tool_call_context_t *context, exports_tool_call_request_t *request,
                              exports_tool_call_verdict_t *verdict) {
  memset(verdict, 0, sizeof *verdict);
  verdict->tag = TYPES_VERDICT_ALLOW;
  const bytes_t *pattern = pattern_over(&request->tool.name);
  json_t path = {NULL, NULL};
  if (request->arguments.is_some) {
    path = json_member(json_of(request->arguments.val.ptr, request->arguments.val.len), "path");
  }
  if (pattern != NULL) {
    deny(verdict, "guard.tool", "The operator does not let this tool be called.");
    verdict->val.deny.reason.rule.is_some = true;
    contract_string_dup_n(&verdict->val.deny.reason.rule.val, pattern->bytes, pattern->length);
  } else if (path.at != NULL) {
    bytes_t said = {NULL, 0};
    if (json_is_string(path)) said = json_string(path);
    if (!is_inside(said)) {
      contract_string_t line;
      contract_string_set(&line, "denied a path outside of the allowed directories");
      log_write(LOG_LEVEL_INFO, &line);
      deny(verdict, "guard.path", "This path is outside of the directories that the operator allows.");
    }
    free(said.bytes);
  }
  exports_tool_call_context_free(context);
  exports_tool_call_request_free(request);
}

void exports_list_tools_filter(exports_list_tools_context_t *context, exports_list_tools_list_tool_t *tools,
                               exports_list_tools_outcome_t *outcome) {
  memset(outcome, 0, sizeof *outcome);
  if (tools->len > 0) {
    outcome->visible.len = tools->len;
    outcome->visible.ptr = allocate(tools->len, sizeof *outcome->visible.ptr);
  }
  for (size_t i = 0; i < tools->len; i++) {
    bool hidden = pattern_over(&tools->ptr[i].name) != NULL;
    outcome->visible.ptr[i] = hidden ? TYPES_VISIBILITY_HIDE : TYPES_VISIBILITY_SHOW;
  }
  exports_list_tools_context_free(context);
  exports_list_tools_list_tool_free(tools);
}

// The bindings ask for a file that holds the contract. The gateway needs none: it knows the functions by their names.
void __component_type_object_force_link_contract(void) {}
