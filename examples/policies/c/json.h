// Reads what is asked for out of JSON text. The gateway only sends text that is well-formed, so nothing is checked
// here beyond its end.

#include <stdbool.h>
#include <stddef.h>

// A value within a text, from its first byte to the end of the text; `at` is NULL where there is none.
typedef struct {
  const char *at, *end;
} json_t;

// Bytes that own their memory.
typedef struct {
  char *bytes;
  size_t length;
} bytes_t;

json_t json_of(const void *text, size_t length);

// The member of an object, if the value is one and has it.
json_t json_member(json_t object, const char *name);

// The first element of a list, if there is one, and the one after an element.
json_t json_first(json_t list);
json_t json_next(json_t element);

bool json_is_string(json_t value);
bool json_is_list(json_t value);

// What a string says.
bytes_t json_string(json_t value);
