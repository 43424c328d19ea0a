package cli

import (
	"bytes"
	"encoding/json"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh/codec"
)

// printMessage prints an answer in the JSON form that REST gives it.
func printMessage(cmd *cobra.Command, m proto.Message) error {
	data, err := codec.MarshalAnswer(m)
	if err != nil {
		return err
	}
	return printJSON(cmd, data)
}

// printJSON prints every JSON of this program: indented, for it is read by people as often as by jq.
func printJSON(cmd *cobra.Command, data []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return err
	}
	say(cmd, "%s\n", b.String())
	return nil
}
