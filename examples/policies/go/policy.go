// guard-paths: denies the tools on the operator's list, and paths outside of the operator's directories.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Set by configure. Every decision begins with what it left here, and with nothing else.
var deny, roots []string

const manifest = `{
  "name": "guard-paths",
  "version": "0.1.0",
  "title": "Denies listed tools, and paths outside of listed directories",
  "license": "Apache-2.0",
  "hooks": ["list-tools", "tool-call"],
  "needs": [{"hook": "tool-call", "arguments": "full", "output": "none", "texts": false}],
  "capabilities": [],
  "determinism": "pure",
  "config_schema": {
    "type": "object",
    "properties": {
      "deny": {"type": "array", "items": {"type": "string"}, "description": "Names of tools; * stands for any characters"},
      "roots": {"type": "array", "items": {"type": "string"}, "description": "Directories that the argument path may be in"}
    },
    "required": ["roots"],
    "additionalProperties": false
  },
  "sample_config": {"deny": ["delete_*"], "roots": ["/srv/"]}
}`

type problem struct {
	Path    string `json:"path"`
	Message string `json:"message"`
}

func configure(text []byte) []problem {
	var config struct {
		Deny  []string `json:"deny"`
		Roots []string `json:"roots"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			member, _, _ := strings.Cut(wrong.Field, ".")
			return []problem{{"/" + member, "must be a list of strings"}}
		}
		return []problem{{"", err.Error()}}
	}
	if config.Roots == nil {
		return []problem{{"/roots", "must be a list of strings"}}
	}
	var problems []problem
	for index, root := range config.Roots {
		if !strings.HasPrefix(root, "/") {
			problems = append(problems, problem{fmt.Sprintf("/roots/%d", index), "must begin with /"})
		}
	}
	deny, roots = config.Deny, config.Roots
	return problems
}

type tool struct {
	Name string `json:"name"`
}

func decide(hook string, input []byte) (any, error) {
	switch hook {
	case "list-tools":
		return listTools(input)
	case "tool-call":
		return toolCall(input)
	default:
		return nil, fmt.Errorf("guard-paths has no hook %s", hook)
	}
}

func listTools(input []byte) (any, error) {
	var asked struct {
		Tools []tool `json:"tools"`
	}
	if err := json.Unmarshal(input, &asked); err != nil {
		return nil, err
	}
	visible := make([]string, len(asked.Tools))
	for index, tool := range asked.Tools {
		visible[index] = "show"
		if _, denied := patternOver(tool.Name); denied {
			visible[index] = "hide"
		}
	}
	return map[string]any{"visible": visible}, nil
}

func toolCall(input []byte) (any, error) {
	var asked struct {
		Request struct {
			Tool      tool                       `json:"tool"`
			Arguments map[string]json.RawMessage `json:"arguments"`
		} `json:"request"`
	}
	if err := json.Unmarshal(input, &asked); err != nil {
		return nil, err
	}
	if pattern, denied := patternOver(asked.Request.Tool.Name); denied {
		return denial(reason{"guard.tool", "The operator does not let this tool be called.", pattern}), nil
	}
	if path, present := asked.Request.Arguments["path"]; present && !isInside(path) {
		log(levelInfo, "denied a path outside of the allowed directories")
		return denial(reason{Code: "guard.path", Message: "This path is outside of the directories that the operator allows."}), nil
	}
	return map[string]any{"allow": map[string]any{}}, nil
}

type reason struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Rule    string `json:"rule,omitempty"`
}

func denial(reason reason) any {
	return map[string]any{"deny": map[string]any{"reason": reason}}
}

// patternOver returns the first pattern on the list that matches the name.
func patternOver(name string) (string, bool) {
	at := slices.IndexFunc(deny, func(pattern string) bool { return matches(pattern, name) })
	if at < 0 {
		return "", false
	}
	return deny[at], true
}

// matches tells whether the whole name fits the pattern, in which * stands for any characters.
func matches(pattern, name string) bool {
	pieces := strings.Split(pattern, "*")
	first, last := pieces[0], pieces[len(pieces)-1]
	if len(pieces) == 1 {
		return name == first
	}
	rest, found := strings.CutPrefix(name, first)
	if !found {
		return false
	}
	for _, piece := range pieces[1 : len(pieces)-1] {
		if _, rest, found = strings.Cut(rest, piece); !found {
			return false
		}
	}
	return strings.HasSuffix(rest, last)
}

// isInside tells whether the JSON value is an absolute path that leads nowhere by .., and is one of the directories
// or within one.
func isInside(value json.RawMessage) bool {
	var path *string
	if json.Unmarshal(value, &path) != nil || path == nil || !strings.HasPrefix(*path, "/") {
		return false
	}
	if slices.Contains(strings.Split(*path, "/"), "..") {
		return false
	}
	return slices.ContainsFunc(roots, func(root string) bool {
		directory := strings.TrimRight(root, "/")
		return *path == directory || strings.HasPrefix(*path, directory+"/")
	})
}
