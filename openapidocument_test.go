package main

// Reads api/openapi.yaml and holds requests and answers against it. What the document says in words a program can't
// hold; what it says in form has to be true. A keyword that is not read here is an error, so that none is misspelled.

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

const apiFile = "api/openapi.yaml"

// apiDocument remembers what of it was seen.
type apiDocument struct {
	t        *testing.T
	root     map[string]any
	compiler *jsonschema.Compiler
	seen     map[string]bool // statuses of operations, headers and media types of responses
}

// part is an object of the document and where it stands: a JSON pointer (RFC 6901).
type part struct {
	doc     *apiDocument
	pointer string
	value   map[string]any
}

func readAPIDocument(t *testing.T) *apiDocument {
	t.Helper()
	text, err := os.ReadFile(apiFile)
	if err != nil {
		t.Fatal(err)
	}
	d := &apiDocument{t: t, compiler: jsonschema.NewCompiler(), seen: map[string]bool{}}
	if err := yaml.Unmarshal(text, &d.root); err != nil {
		t.Fatal(err)
	}
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(apiFile, d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *apiDocument) at(pointer string) part {
	d.t.Helper()
	p := part{d, "", d.root}
	for key := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		p = p.child(strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~"))
	}
	return p
}

// child follows references; what stands beside one is a description.
func (p part) child(key string) part {
	p.doc.t.Helper()
	value, ok := p.value[key].(map[string]any)
	if !ok {
		p.doc.t.Fatalf("%s has no %s", p.pointer, key)
	}
	if ref, ok := value["$ref"].(string); ok {
		return p.doc.at(strings.TrimPrefix(ref, "#"))
	}
	return part{p.doc, p.pointer + "/" + strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1"), value}
}

// children are those under key, in the order of their names; none if there is no such key.
func (p part) children(key string) (names []string, of part) {
	if p.value[key] == nil {
		return nil, part{}
	}
	of = p.child(key)
	return slices.Sorted(maps.Keys(of.value)), of
}

func (p part) text(key string) string { s, _ := p.value[key].(string); return s }

func (p part) has(key string) bool { return p.value[key] != nil }

func (p part) required() bool { return p.value["required"] == true }

// check validates a value against the schema of a parameter, header or media type.
func (p part) check(value any) error {
	p.doc.t.Helper()
	schema, err := p.doc.compiler.Compile(apiFile + "#" + p.child("schema").pointer)
	if err != nil {
		p.doc.t.Fatal(err)
	}
	return schema.Validate(value)
}

// checkText validates the text of a parameter or header.
func (p part) checkText(text string) error {
	if p.child("schema").text("type") == "integer" {
		if _, err := strconv.ParseUint(text, 10, 64); err == nil {
			return p.check(json.Number(text))
		}
	}
	return p.check(text)
}

// operations calls visit with all of them, as "GET /path".
func (d *apiDocument) operations(visit func(name, method, path string, op part)) {
	paths, all := part{d, "", d.root}.children("paths")
	for _, path := range paths {
		item := all.child(path)
		for _, method := range slices.Sorted(maps.Keys(item.value)) {
			name := strings.ToUpper(method)
			visit(name+" "+path, name, path, item.child(method))
		}
	}
}

// operation is that of a path or a webhook.
func (d *apiDocument) operation(group, name, method string) part {
	d.t.Helper()
	return part{d, "", d.root}.child(group).child(name).child(strings.ToLower(method))
}

// security names the schemes of an operation.
func (p part) security() map[string]bool {
	list, ok := p.value["security"].([]any)
	if !ok {
		list = p.doc.root["security"].([]any)
	}
	names := map[string]bool{}
	for _, choice := range list {
		for name := range choice.(map[string]any) {
			names[name] = true
		}
	}
	return names
}

func (p part) parameters() (list []part) {
	given, _ := p.value["parameters"].([]any)
	for i, value := range given {
		key := strconv.Itoa(i)
		list = append(list, part{p.doc, p.pointer + "/parameters", map[string]any{key: value}}.child(key))
	}
	return list
}

// fits tells whether a request is one of the operation. Headers that are not documented must not begin with x-.
func (p part) fits(query url.Values, header http.Header) error {
	p.doc.t.Helper()
	known := map[string]bool{}
	for scheme := range p.security() {
		known[http.CanonicalHeaderKey(p.doc.at("/components/securitySchemes/"+scheme).text("name"))] = true
	}
	for _, parameter := range p.parameters() {
		name, in := parameter.text("name"), parameter.text("in")
		var values []string
		switch in {
		case "header":
			name = http.CanonicalHeaderKey(name)
			values = header[name]
		case "query":
			values = query[name]
		default:
			continue
		}
		known[name] = true
		switch {
		case len(values) == 0 && parameter.required():
			return fmt.Errorf("%s is missing", name)
		case len(values) > 1 && parameter.value["explode"] == nil:
			return fmt.Errorf("%s is given more than once", name)
		}
		if parameter.value["explode"] != nil {
			continue
		}
		for _, value := range values {
			if err := parameter.checkText(value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			p.doc.see(p.pointer, name)
		}
	}
	for name := range query {
		if !known[name] {
			return fmt.Errorf("query parameter %s is not documented", name)
		}
	}
	for name := range header {
		if strings.HasPrefix(name, "X-") && !known[name] {
			return fmt.Errorf("header %s is not documented", name)
		}
	}
	return nil
}

// answered holds an answer against the operation, and remembers it.
func (p part) answered(res *http.Response, body string) {
	p.doc.t.Helper()
	responses, status := p.child("responses"), strconv.Itoa(res.StatusCode)
	if !responses.has(status) {
		p.doc.t.Errorf("%s is answered with %s, which is not documented: %s", p.pointer, status, body)
		return
	}
	p.doc.see(p.pointer, status)
	if err := responses.child(status).holds(res, body); err != nil {
		p.doc.t.Errorf("%s %s: %v", p.pointer, status, err)
	}
}

// holds tells whether an answer is as the response says: its headers, all of them, its media type and its body.
func (p part) holds(res *http.Response, body string) error {
	p.doc.t.Helper()
	header := res.Header.Clone()
	if res.Uncompressed {
		header.Set("Content-Encoding", "gzip") // the client has undone it
	}
	names, headers := p.children("headers")
	for _, name := range names {
		documented, given := headers.child(name), header.Values(name)
		header.Del(name)
		if len(given) == 0 && !documented.required() {
			continue
		}
		if len(given) == 0 {
			return fmt.Errorf("header %s is missing", name)
		}
		if err := documented.checkText(strings.Join(given, ", ")); err != nil { // RFC 9110, 5.3
			return fmt.Errorf("header %s: %w", name, err)
		}
		p.doc.see(p.pointer, name)
	}
	for _, name := range []string{"Date", "Connection", "Content-Length", "Content-Type"} { // of every answer
		header.Del(name)
	}
	if len(header) > 0 {
		return fmt.Errorf("headers that are not documented: %v", header)
	}
	return p.holdsBody(res, body)
}

func (p part) holdsBody(res *http.Response, body string) error {
	p.doc.t.Helper()
	given := res.Header.Get("Content-Type")
	kinds, content := p.children("content")
	if len(kinds) == 0 && body == "" {
		return nil
	}
	for _, kind := range kinds {
		if given != kind && !strings.HasPrefix(given, kind+";") {
			continue
		}
		p.doc.see(p.pointer, kind)
		media := content.child(kind)
		if !media.has("schema") || res.Request != nil && res.Request.Method == http.MethodHead {
			return nil
		}
		if kind != "application/json" {
			return media.check(body)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err != nil {
			return err
		}
		return media.check(value)
	}
	return fmt.Errorf("content of type %q is not documented: %.80q", given, body)
}

func (d *apiDocument) see(pointer, what string) { d.seen[pointer+" "+what] = true }

// unseen reports what is documented of the paths and was not seen: statuses, and what each response may hold.
func (d *apiDocument) unseen() {
	d.t.Helper()
	missing := map[string]bool{}
	want := func(pointer, what string) {
		if !d.seen[pointer+" "+what] {
			missing[pointer+" "+what] = true
		}
	}
	d.operations(func(_, _, _ string, op part) {
		statuses, responses := op.children("responses")
		for _, status := range statuses {
			want(op.pointer, status)
			response := responses.child(status)
			for _, group := range []string{"headers", "content"} {
				names, _ := response.children(group)
				for _, name := range names {
					want(response.pointer, name)
				}
			}
		}
	})
	for _, what := range slices.Sorted(maps.Keys(missing)) {
		d.t.Errorf("documented, but never seen: %s", what)
	}
}

// only reports keys that have no meaning where they stand, and the lack of those that must be there.
func (p part) only(must string, may ...string) {
	p.doc.t.Helper()
	for _, key := range strings.Fields(must) {
		if !p.has(key) {
			p.doc.t.Errorf("%s lacks %s", p.pointer, key)
		}
		may = append(may, key)
	}
	for key := range p.value {
		if !slices.Contains(may, key) {
			p.doc.t.Errorf("%s has a key %s, which means nothing here", p.pointer, key)
		}
	}
}

// wellFormedOperation looks at everything below an operation of a path or a webhook.
func (p part) wellFormedOperation() {
	p.doc.t.Helper()
	p.only("operationId tags summary responses", "description", "security", "parameters")
	for _, parameter := range p.parameters() {
		parameter.only("name in schema", "required", "description", "allowEmptyValue", "explode")
		parameter.wellFormedSchema(parameter.child("schema"))
	}
	statuses, responses := p.children("responses")
	for _, status := range statuses {
		response := responses.child(status)
		response.only("description", "headers", "content")
		names, headers := response.children("headers")
		for _, name := range names {
			header := headers.child(name)
			header.only("schema", "required", "description", "example")
			header.wellFormedSchema(header.child("schema"))
			if example := header.text("example"); example != "" && header.check(example) != nil {
				p.doc.t.Errorf("%s: the example does not fit the schema", header.pointer)
			}
		}
		kinds, content := response.children("content")
		for _, kind := range kinds {
			media := content.child(kind)
			media.only("", "schema")
			if media.has("schema") {
				media.wellFormedSchema(media.child("schema"))
			}
		}
	}
}

// wellFormedSchema has every object name all its fields, require them and allow no other: what the daemon adds is
// documented or does not pass.
func (p part) wellFormedSchema(schema part) {
	p.doc.t.Helper()
	schema.only("", "type", "description", "properties", "required", "additionalProperties", "items", "maxItems", "enum",
		"const", "pattern", "format", "minimum", "maximum", "minLength", "maxLength", "default")
	if schema.has("items") {
		p.wellFormedSchema(schema.child("items"))
	}
	if schema.text("type") != "object" {
		return
	}
	required := []string{}
	for _, name := range schema.value["required"].([]any) {
		required = append(required, name.(string))
	}
	slices.Sort(required)
	names, properties := schema.children("properties")
	if diff := cmp.Diff(append([]string{}, names...), required); diff != "" || schema.value["additionalProperties"] != false {
		p.doc.t.Errorf("%s is open, or requires others (+) than its fields (-): %s", schema.pointer, diff)
	}
	for _, name := range names {
		p.wellFormedSchema(properties.child(name))
	}
}
