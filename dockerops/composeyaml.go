package dockerops

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

// multiline marks a text of several lines that is kept on one, quoted. No other
// text begins so, for literal doubles each $.
const multiline = `$"`

// literal keeps Compose from taking $NAME in a value for a variable of whoever
// runs it. The encoder does not do that; and a text of several lines it would
// write as a literal block, which cannot be read back if it begins with a tab.
func literal(value string) string {
	value = strings.ReplaceAll(value, "$", "$$")
	if strings.Contains(value, "\n") {
		return "$" + strconv.QuoteToASCII(value)
	}
	return value
}

// encodeCompose writes project, whose texts are literals, as YAML.
func encodeCompose(project *types.Project) ([]byte, error) {
	file, err := project.MarshalYAML()
	if err != nil || !bytes.Contains(file, []byte(multiline)) {
		return file, err
	}
	var tree yaml.Node
	if err := yaml.Unmarshal(file, &tree); err != nil {
		return nil, err
	}
	if err := breakLines(&tree); err != nil {
		return nil, err
	}
	var broken bytes.Buffer
	encoder := yaml.NewEncoder(&broken)
	encoder.SetIndent(2) // as MarshalYAML does
	if err := encoder.Encode(&tree); err != nil {
		return nil, err
	}
	return broken.Bytes(), nil
}

// breakLines gives the texts of several lines below node their lines back.
func breakLines(node *yaml.Node) error {
	if strings.HasPrefix(node.Value, multiline) {
		text, err := strconv.Unquote(node.Value[1:])
		if err != nil {
			return fmt.Errorf("unquoting %.100s: %w", node.Value, err)
		}
		node.Value, node.Style = text, yaml.DoubleQuotedStyle
	}
	for _, child := range node.Content {
		if err := breakLines(child); err != nil {
			return err
		}
	}
	return nil
}
