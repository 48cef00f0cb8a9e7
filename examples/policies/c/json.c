#include "json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const json_t nothing = {NULL, NULL};

static char here(json_t value) { return value.at < value.end ? *value.at : 0; }

static json_t past_space(json_t value) {
  while (value.at < value.end && strchr(" \t\r\n", *value.at) != NULL) value.at++;
  return value;
}

static json_t past_byte(json_t value) {
  value.at++;
  return past_space(value);
}

static json_t past_string(json_t value) {
  value.at++;
  while (value.at < value.end && *value.at != '"') value.at += *value.at == '\\' ? 2 : 1;
  return past_byte(value);
}

// Past a number, `true`, `false` or `null`.
static json_t past_word(json_t value) {
  while (value.at < value.end && strchr(",]} \t\r\n", *value.at) == NULL) value.at++;
  return past_space(value);
}

static json_t past_value(json_t value) {
  size_t depth = 0;
  do {
    switch (here(value)) {
      case '"':
        value = past_string(value);
        break;
      case '{':
      case '[':
        depth++;
        value = past_byte(value);
        break;
      case '}':
      case ']':
        depth--;
        value = past_byte(value);
        break;
      case ',':
      case ':':
        value = past_byte(value);
        break;
      default:
        value = past_word(value);
    }
  } while (depth > 0 && value.at < value.end);
  return value;
}

json_t json_of(const void *text, size_t length) {
  json_t value = {text, (const char *)text + length};
  return past_space(value);
}

bool json_is_string(json_t value) { return value.at != NULL && here(value) == '"'; }

bool json_is_list(json_t value) { return value.at != NULL && here(value) == '['; }

json_t json_member(json_t object, const char *name) {
  if (object.at == NULL || here(object) != '{') return nothing;
  json_t key = past_byte(object);
  while (here(key) == '"') {
    json_t value = past_byte(past_string(key)); // past the colon
    bytes_t said = json_string(key);
    bool found = said.length == strlen(name) && memcmp(said.bytes, name, said.length) == 0;
    free(said.bytes);
    if (found) return value;
    key = past_value(value);
    if (here(key) == ',') key = past_byte(key);
  }
  return nothing;
}

json_t json_first(json_t list) {
  if (!json_is_list(list)) return nothing;
  json_t first = past_byte(list);
  return here(first) == ']' ? nothing : first;
}

json_t json_next(json_t element) {
  json_t next = past_value(element);
  return here(next) == ',' ? past_byte(next) : nothing;
}

static uint32_t hex(const char *digits) {
  uint32_t value = 0;
  for (int i = 0; i < 4; i++) {
    char digit = digits[i];
    value = value * 16 + (digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10);
  }
  return value;
}

static char *put_utf8(char *to, uint32_t point) {
  if (point < 0x80) {
    *to++ = point;
  } else if (point < 0x800) {
    *to++ = 0xc0 | point >> 6;
    *to++ = 0x80 | (point & 0x3f);
  } else if (point < 0x10000) {
    *to++ = 0xe0 | point >> 12;
    *to++ = 0x80 | (point >> 6 & 0x3f);
    *to++ = 0x80 | (point & 0x3f);
  } else {
    *to++ = 0xf0 | point >> 18;
    *to++ = 0x80 | (point >> 12 & 0x3f);
    *to++ = 0x80 | (point >> 6 & 0x3f);
    *to++ = 0x80 | (point & 0x3f);
  }
  return to;
}

// What a string says never has more bytes than what it is written as.
bytes_t json_string(json_t value) {
  static const char escapes[] = "bfnrt", meanings[] = "\b\f\n\r\t";
  const char *from = value.at + 1, *end = past_string(value).at;
  bytes_t said = {malloc(end - value.at), 0};
  if (said.bytes == NULL) abort();
  char *to = said.bytes;
  while (from < end && *from != '"') {
    if (*from != '\\') {
      *to++ = *from++;
    } else if (from[1] == 'u') {
      uint32_t point = hex(from + 2);
      from += 6;
      if (point >= 0xd800 && point < 0xdc00 && from[0] == '\\' && from[1] == 'u') {
        point = 0x10000 + ((point - 0xd800) << 10) + (hex(from + 2) - 0xdc00);
        from += 6;
      }
      to = put_utf8(to, point);
    } else {
      const char *escape = strchr(escapes, from[1]);
      *to++ = escape != NULL ? meanings[escape - escapes] : from[1];
      from += 2;
    }
  }
  said.length = to - said.bytes;
  return said;
}
