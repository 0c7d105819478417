package main

// As much of Markdown as docs/configuration.md uses.

import (
	"fmt"
	"regexp"
	"strings"
)

type page struct{ strings.Builder }

func (p *page) macro(line string) { p.WriteString(line + "\n") }

// begin begins a paragraph, which the first one of a section does by itself.
func (p *page) begin() {
	written := strings.TrimSuffix(p.String(), "\n")
	if last := written[strings.LastIndexByte(written, '\n')+1:]; !strings.HasPrefix(last, ".SH") {
		p.macro(".PP")
	}
}

// item is a name and what it means.
func (p *page) item(name, meaning string) {
	p.macro(".TP")
	p.macro(`\fB` + strings.ReplaceAll(literal(name), " ", `\ `) + `\fR`)
	p.fill(meaning)
}

// fill writes text in lines of the length that is usual.
func (p *page) fill(text string) {
	const width = 100
	line := ""
	for _, word := range strings.Fields(inline(text)) {
		if line != "" && len(line)+1+len(word) > width {
			p.text(line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	p.text(line)
}

// text writes a line of text, which is no request whatever it begins with.
func (p *page) text(line string) {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line
	}
	p.WriteString(line + "\n")
}

var (
	link    = regexp.MustCompile(`\[([^\]]+)\]\([^)]+\)`)
	escapes = strings.NewReplacer(`\`, `\e`, `'`, `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`)
)

// literal is text that is to be typed as it stands.
func literal(text string) string { return strings.ReplaceAll(escapes.Replace(text), "-", `\-`) }

// inline takes links and code out of Markdown. A link is its text: where it leads nobody can follow it.
func inline(text string) string {
	var b strings.Builder
	for i, part := range codes(text) {
		switch {
		case i%2 == 1:
			b.WriteString(`\fB` + strings.ReplaceAll(literal(part), " ", `\ `) + `\fR`)
		default:
			b.WriteString(strings.ReplaceAll(part, `\`, `\e`))
		}
	}
	return link.ReplaceAllString(b.String(), "$1")
}

// codes splits text at its backquotes: what stands between two of them is at the odd places.
func codes(text string) []string { return strings.Split(text, "`") }

// markdown writes paragraphs, lists, code, tables of three columns and headings.
func (p *page) markdown(document string) error {
	depth := 0 // of the list that the lines are in
	to := func(wanted int) {
		for ; depth < wanted; depth++ {
			if depth > 0 {
				p.macro(".RS")
			}
		}
		for ; depth > wanted; depth-- {
			if depth > 1 {
				p.macro(".RE")
			}
		}
	}
	lines := strings.Split(document, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "":
		case strings.HasPrefix(line, "## "):
			to(0)
			p.macro(".SH " + strings.ToUpper(line[3:]))
		case strings.HasPrefix(line, "#"):
			return fmt.Errorf("a heading of another level: %s", line)
		case strings.HasPrefix(line, "| "):
			to(0)
			cells := strings.Split(strings.Trim(trimmed, "|"), " | ")
			if len(cells) != 3 {
				return fmt.Errorf("a row without three cells: %s", line)
			}
			name, def, meaning := strings.Trim(cells[0], " `"), strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])
			if name == "name" {
				continue
			}
			if def != "" {
				meaning += ". Default: " + def
			}
			p.item(name, capital(meaning)+".")
		case strings.HasPrefix(line, "|-"):
		case strings.HasPrefix(trimmed, "```"):
			p.begin()
			if depth > 0 {
				p.macro(".RS")
			}
			p.macro(".EX")
			for i++; i < len(lines) && !strings.HasPrefix(strings.TrimSpace(lines[i]), "```"); i++ {
				p.text(literal(strings.TrimSpace(lines[i])))
			}
			p.macro(".EE")
			if depth > 0 {
				p.macro(".RE")
			}
		case strings.HasPrefix(trimmed, "- "):
			to(1 + (len(line)-len(strings.TrimLeft(line, " ")))/2)
			p.macro(`.IP \(bu 2`)
			i = p.paragraph(lines, i, trimmed[2:])
		default:
			to(0)
			p.begin()
			i = p.paragraph(lines, i, trimmed)
		}
	}
	to(0)
	return nil
}

// paragraph writes a text that begins in a line and goes on until something else does, and returns the number of its last line.
func (p *page) paragraph(lines []string, at int, text string) int {
	for ; at+1 < len(lines); at++ {
		next := strings.TrimSpace(lines[at+1])
		if next == "" || strings.HasPrefix(next, "- ") || strings.HasPrefix(next, "```") || strings.HasPrefix(next, "|") || strings.HasPrefix(next, "#") {
			break
		}
		text += " " + next
	}
	p.fill(text)
	return at
}

func capital(text string) string {
	if text == "" || text[0] < 'a' || text[0] > 'z' {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
