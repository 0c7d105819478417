// What an application asks of the coordinator, with a generated client: go run . http://localhost:8080 CHANNEL STREAM-ID
package main

//go:generate go tool oapi-codegen -config oapi-codegen.yaml ../../openapi.yaml

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"

	"example.com/coordinator-client/api"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: coordinator-client URL CHANNEL STREAM-ID")
	}
	if err := ask(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

// ask prints how loaded the cluster is and what it knows of a channel, and ends the stream.
func ask(ctx context.Context, url, channel, stream string) error {
	client, err := api.NewClientWithResponses(url, api.WithRequestEditorFn(authorize))
	if err != nil {
		return err
	}
	capacity, err := client.CapacityWithResponse(ctx)
	if err != nil {
		return err
	}
	if capacity.JSON200 == nil {
		return refusal(capacity.Status(), capacity.JSON401)
	}
	fmt.Println("capacity", capacity.JSON200.Load, capacity.JSON200.Capacity, capacity.JSON200.EncoderCount)

	streams, err := client.StreamsWithResponse(ctx, &api.StreamsParams{Q: &channel})
	if err != nil {
		return err
	}
	if streams.JSON200 == nil {
		return refusal(streams.Status(), streams.JSON400)
	}
	for _, s := range streams.JSON200.Streams {
		fmt.Println("stream", s.Channel, s.StreamId, s.State)
		for _, a := range s.Announced {
			fmt.Println("announced", a.StreamType, a.Resolution, a.IndexFile)
		}
	}

	timeline, err := client.TimelineWithResponse(ctx, &api.TimelineParams{Channel: &channel})
	if err != nil {
		return err
	}
	if timeline.JSON200 == nil {
		return refusal(timeline.Status(), timeline.JSON400)
	}
	for _, e := range timeline.JSON200.Entries {
		fmt.Println("timeline", e.Kind, e.Code)
	}

	events, err := client.EventsWithResponse(ctx, &api.EventsParams{Channel: &channel})
	if err != nil {
		return err
	}
	if events.JSON200 == nil {
		return refusal(events.Status(), events.JSON400)
	}
	for _, e := range events.JSON200.Events {
		fmt.Println("event", e.Id, e.Type, e.LastAnswer)
	}

	closed, err := client.CloseWithResponse(ctx, &api.CloseParams{XStreamingChannel: channel, XStreamingId: stream})
	if err != nil {
		return err
	}
	if closed.JSON200 == nil {
		return refusal(closed.Status(), closed.JSON400)
	}
	fmt.Println("closed", channel)
	return nil
}

// authorize shows what COMMANDS_API_AUTH_TOKEN is at the coordinator, with COMMANDS_API_AUTH=Bearer.
func authorize(_ context.Context, r *http.Request) error {
	if token := os.Getenv("TOKEN"); token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

func refusal(status string, e *api.Error) error {
	if e == nil {
		return fmt.Errorf("answered with %s", status)
	}
	return fmt.Errorf("answered with %s: %s (%s)", status, e.Error, e.Code)
}
