// Package apidoc reads api/openapi.yaml for tests and holds requests and answers against it. What the document says in words
// a program can't hold; what it says in form has to be true. A keyword that is not read here is an error, so that none is
// misspelled.
package apidoc

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

// Document remembers what of it was seen.
type Document struct {
	T        *testing.T
	file     string
	root     map[string]any
	compiler *jsonschema.Compiler
	seen     map[string]bool // statuses of operations, headers and media types of responses
}

// Part is an object of the document and where it stands: a JSON pointer (RFC 6901).
type Part struct {
	doc     *Document
	Pointer string
	Value   map[string]any
}

// Read reads the document.
func Read(t *testing.T, file string) *Document {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := &Document{T: t, file: file, compiler: jsonschema.NewCompiler(), seen: map[string]bool{}}
	if err := yaml.Unmarshal(text, &d.root); err != nil {
		t.Fatal(err)
	}
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(file, d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// Root is the whole document.
func (d *Document) Root() Part { return Part{d, "", d.root} }

// At is what stands at a JSON pointer.
func (d *Document) At(pointer string) Part {
	d.T.Helper()
	p := d.Root()
	for key := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		p = p.Child(strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~"))
	}
	return p
}

// Child follows references; what stands beside one is a description.
func (p Part) Child(key string) Part {
	p.doc.T.Helper()
	value, ok := p.Value[key].(map[string]any)
	if !ok {
		p.doc.T.Fatalf("%s has no %s", p.Pointer, key)
	}
	if ref, ok := value["$ref"].(string); ok {
		return p.doc.At(strings.TrimPrefix(ref, "#"))
	}
	return Part{p.doc, p.Pointer + "/" + strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1"), value}
}

// Children are those under key, in the order of their names; none if there is no such key.
func (p Part) Children(key string) (names []string, of Part) {
	if p.Value[key] == nil {
		return nil, Part{}
	}
	of = p.Child(key)
	return slices.Sorted(maps.Keys(of.Value)), of
}

func (p Part) Text(key string) string { s, _ := p.Value[key].(string); return s }

func (p Part) has(key string) bool { return p.Value[key] != nil }

func (p Part) required() bool { return p.Value["required"] == true }

// Check validates a value against the schema of a parameter, header or media type.
func (p Part) Check(value any) error {
	p.doc.T.Helper()
	schema, err := p.doc.compiler.Compile(p.doc.file + "#" + p.Child("schema").Pointer)
	if err != nil {
		p.doc.T.Fatal(err)
	}
	return schema.Validate(value)
}

// checkText validates the text of a parameter or header.
func (p Part) checkText(text string) error {
	if p.Child("schema").Text("type") == "integer" {
		if _, err := strconv.ParseUint(text, 10, 64); err == nil {
			return p.Check(json.Number(text))
		}
	}
	return p.Check(text)
}

// Operations calls visit with all of them, as "GET /path".
func (d *Document) Operations(visit func(name, method, path string, op Part)) {
	paths, all := d.Root().Children("paths")
	for _, path := range paths {
		item := all.Child(path)
		for _, method := range slices.Sorted(maps.Keys(item.Value)) {
			name := strings.ToUpper(method)
			visit(name+" "+path, name, path, item.Child(method))
		}
	}
}

// Operation is that of a path or a webhook.
func (d *Document) Operation(group, name, method string) Part {
	d.T.Helper()
	return d.Root().Child(group).Child(name).Child(strings.ToLower(method))
}

// Security names the schemes of an operation.
func (p Part) Security() map[string]bool {
	list, ok := p.Value["security"].([]any)
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

func (p Part) Parameters() (list []Part) {
	given, _ := p.Value["parameters"].([]any)
	for i, value := range given {
		key := strconv.Itoa(i)
		list = append(list, Part{p.doc, p.Pointer + "/parameters", map[string]any{key: value}}.Child(key))
	}
	return list
}

// Fits tells whether a request is one of the operation. Headers that are not documented must not begin with x-.
func (p Part) Fits(query url.Values, header http.Header) error {
	p.doc.T.Helper()
	known := map[string]bool{}
	for scheme := range p.Security() {
		known[http.CanonicalHeaderKey(p.doc.At("/components/securitySchemes/"+scheme).Text("name"))] = true
	}
	for _, parameter := range p.Parameters() {
		name, in := parameter.Text("name"), parameter.Text("in")
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
		case len(values) > 1 && parameter.Value["explode"] == nil:
			return fmt.Errorf("%s is given more than once", name)
		}
		if parameter.Value["explode"] != nil {
			continue
		}
		for _, value := range values {
			if err := parameter.checkText(value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			p.doc.see(p.Pointer, name)
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

// Answered holds an answer against the operation, and remembers it.
func (p Part) Answered(res *http.Response, body string) {
	p.doc.T.Helper()
	responses, status := p.Child("responses"), strconv.Itoa(res.StatusCode)
	if !responses.has(status) {
		p.doc.T.Errorf("%s is answered with %s, which is not documented: %s", p.Pointer, status, body)
		return
	}
	p.doc.see(p.Pointer, status)
	if err := responses.Child(status).Holds(res, body); err != nil {
		p.doc.T.Errorf("%s %s: %v", p.Pointer, status, err)
	}
}

// Holds tells whether an answer is as the response says: its headers, all of them, its media type and its body.
func (p Part) Holds(res *http.Response, body string) error {
	p.doc.T.Helper()
	header := res.Header.Clone()
	if res.Uncompressed {
		header.Set("Content-Encoding", "gzip") // the client has undone it
	}
	names, headers := p.Children("headers")
	for _, name := range names {
		documented, given := headers.Child(name), header.Values(name)
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
		p.doc.see(p.Pointer, name)
	}
	for _, name := range []string{"Date", "Connection", "Content-Length", "Content-Type"} { // of every answer
		header.Del(name)
	}
	if len(header) > 0 {
		return fmt.Errorf("headers that are not documented: %v", header)
	}
	return p.holdsBody(res, body)
}

func (p Part) holdsBody(res *http.Response, body string) error {
	p.doc.T.Helper()
	given := res.Header.Get("Content-Type")
	kinds, content := p.Children("content")
	if len(kinds) == 0 && body == "" {
		return nil
	}
	for _, kind := range kinds {
		if given != kind && !strings.HasPrefix(given, kind+";") {
			continue
		}
		p.doc.see(p.Pointer, kind)
		media := content.Child(kind)
		if !media.has("schema") || res.Request != nil && res.Request.Method == http.MethodHead {
			return nil
		}
		if kind != "application/json" {
			return media.Check(body)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err != nil {
			return err
		}
		return media.Check(value)
	}
	return fmt.Errorf("content of type %q is not documented: %.80q", given, body)
}

func (d *Document) see(pointer, what string) { d.seen[pointer+" "+what] = true }

// Seen tells whether a status, header or media type was seen where the pointer leads.
func (d *Document) Seen(pointer, what string) bool { return d.seen[pointer+" "+what] }

// Unseen reports what is documented of the paths and was not seen: the statuses that count, and what their responses may
// hold.
func (d *Document) Unseen(counts func(status string) bool) {
	d.T.Helper()
	missing := map[string]bool{}
	want := func(pointer, what string) {
		if !d.Seen(pointer, what) {
			missing[pointer+" "+what] = true
		}
	}
	d.Operations(func(_, _, _ string, op Part) {
		statuses, responses := op.Children("responses")
		for _, status := range statuses {
			if !counts(status) {
				continue
			}
			want(op.Pointer, status)
			response := responses.Child(status)
			for _, group := range []string{"headers", "content"} {
				names, _ := response.Children(group)
				for _, name := range names {
					want(response.Pointer, name)
				}
			}
		}
	})
	for _, what := range slices.Sorted(maps.Keys(missing)) {
		d.T.Errorf("documented, but never seen: %s", what)
	}
}

// only reports keys that have no meaning where they stand, and the lack of those that must be there.
func (p Part) only(must string, may ...string) {
	p.doc.T.Helper()
	for _, key := range strings.Fields(must) {
		if !p.has(key) {
			p.doc.T.Errorf("%s lacks %s", p.Pointer, key)
		}
		may = append(may, key)
	}
	for key := range p.Value {
		if !slices.Contains(may, key) {
			p.doc.T.Errorf("%s has a key %s, which means nothing here", p.Pointer, key)
		}
	}
}

// WellFormedOperation looks at everything below an operation of a path or a webhook.
func (p Part) WellFormedOperation() {
	p.doc.T.Helper()
	p.only("operationId tags summary responses", "description", "security", "parameters")
	for _, parameter := range p.Parameters() {
		parameter.only("name in schema", "required", "description", "allowEmptyValue", "explode")
		parameter.wellFormedSchema(parameter.Child("schema"))
	}
	statuses, responses := p.Children("responses")
	for _, status := range statuses {
		response := responses.Child(status)
		response.only("description", "headers", "content")
		names, headers := response.Children("headers")
		for _, name := range names {
			header := headers.Child(name)
			header.only("schema", "required", "description", "example")
			header.wellFormedSchema(header.Child("schema"))
			if example := header.Text("example"); example != "" && header.Check(example) != nil {
				p.doc.T.Errorf("%s: the example does not fit the schema", header.Pointer)
			}
		}
		kinds, content := response.Children("content")
		for _, kind := range kinds {
			media := content.Child(kind)
			media.only("", "schema")
			if media.has("schema") {
				media.wellFormedSchema(media.Child("schema"))
			}
		}
	}
}

// wellFormedSchema has every object name all its fields, require them and allow no other: what the daemon adds is
// documented or does not pass.
func (p Part) wellFormedSchema(schema Part) {
	p.doc.T.Helper()
	schema.only("", "type", "description", "properties", "required", "additionalProperties", "items", "maxItems", "enum",
		"const", "pattern", "format", "minimum", "maximum", "minLength", "maxLength", "default")
	if schema.has("items") {
		p.wellFormedSchema(schema.Child("items"))
	}
	if schema.Text("type") != "object" {
		return
	}
	required := []string{}
	for _, name := range schema.Value["required"].([]any) {
		required = append(required, name.(string))
	}
	slices.Sort(required)
	names, properties := schema.Children("properties")
	if diff := cmp.Diff(append([]string{}, names...), required); diff != "" || schema.Value["additionalProperties"] != false {
		p.doc.T.Errorf("%s is open, or requires others (+) than its fields (-): %s", schema.Pointer, diff)
	}
	for _, name := range names {
		p.wellFormedSchema(properties.Child(name))
	}
}
