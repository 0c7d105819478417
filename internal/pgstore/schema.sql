-- What coordinators keep in PostgreSQL. Its version is in coordinator_format. All of it can be run again.

CREATE TABLE IF NOT EXISTS coordinator_format (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    store   text NOT NULL DEFAULT '' -- identity of this store; '': nobody has led yet
);

-- Who leads. Nothing else is written as often.
CREATE TABLE IF NOT EXISTS coordinator_leader (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch  bigint NOT NULL,
    beat   bigint NOT NULL,
    holder text NOT NULL -- random for each process; '': nobody
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- Each takeover has to show here which format it knows. A coordinator checks the format only when it connects: with a connection that is still open, one of
-- format 1 could take over data that it can't read, and would take it for lost.
ALTER TABLE coordinator_leader ADD COLUMN IF NOT EXISTS shown_format integer NOT NULL DEFAULT 0, ADD COLUMN IF NOT EXISTS shown_epoch bigint NOT NULL DEFAULT 0;

CREATE OR REPLACE FUNCTION coordinator_knows_format() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    format integer;
BEGIN
    SELECT version INTO format FROM coordinator_format WHERE one;
    IF NEW.epoch IS DISTINCT FROM OLD.epoch AND (NEW.shown_epoch IS DISTINCT FROM NEW.epoch OR NEW.shown_format < format) THEN
        RAISE EXCEPTION 'the database has format %, which this coordinator does not know: update this coordinator', format USING ERRCODE = 'CO003';
    END IF;
    RETURN NEW;
END
$$;
DROP TRIGGER IF EXISTS coordinator_knows_format ON coordinator_leader;
CREATE TRIGGER coordinator_knows_format BEFORE UPDATE OF epoch ON coordinator_leader FOR EACH ROW EXECUTE FUNCTION coordinator_knows_format();

-- Who may write. Apart from the leader's row, so that renewals and commits never wait for each other.
CREATE TABLE IF NOT EXISTS coordinator_fence (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch  bigint NOT NULL,
    writer bigint NOT NULL DEFAULT 0 -- +1 with each connection that commits: what an earlier one has left on its way comes to nothing
);

CREATE TABLE IF NOT EXISTS coordinator_numbers (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    last bigint NOT NULL -- no session and no publication has a higher number
);

CREATE TABLE IF NOT EXISTS coordinator_gateway (
    id text PRIMARY KEY
);

-- The last message of an encoder's session all of whose events are here: the highest one of the session counts. It moves on with most
-- commits. A row that was updated each time would have to be looked for among all its dead versions while somebody holds a snapshot.
CREATE TABLE IF NOT EXISTS coordinator_progress (
    session bigint NOT NULL,
    applied bigint NOT NULL,
    PRIMARY KEY (session, applied)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Events that the application has not taken.
CREATE TABLE IF NOT EXISTS coordinator_event (
    queue    bigint NOT NULL, -- publication
    position bigint NOT NULL,
    at       bigint NOT NULL, -- milliseconds since 1970
    body     bytea  NOT NULL,
    PRIMARY KEY (queue, position)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Streams that the application was, or will be, told of, and whose end is not here; with a last_seq of 0: a publisher that was accepted, none
-- of whose streams was available yet.
CREATE TABLE IF NOT EXISTS coordinator_announced (
    queue       bigint NOT NULL,
    stream      text NOT NULL,
    channel     text NOT NULL,
    previous    text NOT NULL,
    last_seq    bigint NOT NULL,
    tail        bigint NOT NULL, -- position after the queue's last event; the highest one of the queue counts
    passthrough text NOT NULL DEFAULT '',
    PRIMARY KEY (queue, stream)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

INSERT INTO coordinator_format AS f (version) VALUES (2) ON CONFLICT (one) DO UPDATE SET version = excluded.version WHERE f.version < excluded.version;
INSERT INTO coordinator_leader (epoch, beat, holder) VALUES (0, 0, '') ON CONFLICT DO NOTHING;
INSERT INTO coordinator_fence (epoch) VALUES (0) ON CONFLICT DO NOTHING;
INSERT INTO coordinator_numbers (last) VALUES (0) ON CONFLICT DO NOTHING;

-- Format 1 has a coordinator_commit without a_passthrough. It stays where it was made: a leader of the version before may still use it.
--
-- Writes a group of what belongs together, if its epoch is that of the leader. Doing it twice leaves the same as doing it once. It is one
-- statement for its caller, so that no caller can hold the fence for longer than it takes. p_from is for sessions whose last row is known:
-- only rows from there on are looked at.
--
-- No plan may go through a whole table or index, whatever the statistics say when it is made: it is kept, and of a million rows hardly one may
-- be alive. The settings leave only the index. BETWEEN in place of = leaves only looking for each element by itself, since the order of the index
-- is then of no use for joining. Elements are taken by their number: unnest() of several arrays would copy each of them first.
CREATE OR REPLACE FUNCTION coordinator_commit(
    my_epoch bigint, my_writer bigint,
    e_queue bigint[], e_position bigint[], e_at bigint[], e_body bytea[],
    a_stream text[], a_queue bigint[], a_channel text[], a_previous text[], a_passthrough text[], a_last_seq bigint[], a_tail bigint[],
    c_queue bigint[], c_stream text[], c_tail bigint[],
    p_session bigint[], p_applied bigint[], p_from bigint[],
    d_queue bigint[], d_head bigint[],
    gateways_added text[], gateways_removed text[], sessions_forgotten bigint[],
    numbers_used bigint, store_named text
) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    lead_epoch  bigint;
    last_writer bigint;
BEGIN
    SELECT epoch, writer INTO lead_epoch, last_writer FROM coordinator_fence WHERE one FOR SHARE;
    IF lead_epoch IS DISTINCT FROM my_epoch THEN
        RAISE EXCEPTION 'fenced' USING ERRCODE = 'CO001', DETAIL = lead_epoch::text;
    ELSIF last_writer <> my_writer THEN
        RAISE EXCEPTION 'a later connection of this coordinator commits' USING ERRCODE = 'CO002';
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN -- an event is sent once it is committed, and must not be lost after that
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF store_named <> '' THEN
        UPDATE coordinator_format SET store = store_named WHERE one;
    END IF;
    IF numbers_used > 0 THEN
        UPDATE coordinator_numbers SET last = greatest(last, numbers_used) WHERE one;
    END IF;
    IF cardinality(gateways_added) > 0 THEN
        INSERT INTO coordinator_gateway (id) SELECT * FROM unnest(gateways_added) ON CONFLICT DO NOTHING;
    END IF;
    IF cardinality(gateways_removed) > 0 THEN
        DELETE FROM coordinator_gateway WHERE id = ANY (gateways_removed);
    END IF;
    IF cardinality(sessions_forgotten) > 0 THEN
        DELETE FROM coordinator_progress p USING generate_subscripts(sessions_forgotten, 1) AS i
            WHERE p.session BETWEEN sessions_forgotten[i] AND sessions_forgotten[i];
    END IF;
    IF cardinality(e_queue) > 0 THEN
        INSERT INTO coordinator_event (queue, position, at, body)
            SELECT e_queue[i], e_position[i], e_at[i], e_body[i] FROM generate_subscripts(e_queue, 1) AS i ON CONFLICT DO NOTHING;
    END IF;
    IF cardinality(a_stream) > 0 THEN
        INSERT INTO coordinator_announced AS a (stream, queue, channel, previous, passthrough, last_seq, tail)
            SELECT a_stream[i], a_queue[i], a_channel[i], a_previous[i], a_passthrough[i], a_last_seq[i], a_tail[i] FROM generate_subscripts(a_stream, 1) AS i
            ON CONFLICT (queue, stream) DO UPDATE SET last_seq = greatest(a.last_seq, excluded.last_seq), tail = greatest(a.tail, excluded.tail);
    END IF;
    IF cardinality(c_stream) > 0 THEN
        DELETE FROM coordinator_announced a USING generate_subscripts(c_stream, 1) AS i
            WHERE a.queue BETWEEN c_queue[i] AND c_queue[i] AND (a.stream = c_stream[i] OR a.last_seq = 0 AND c_stream[i] <> ''); -- after an end the accept is owed none
        UPDATE coordinator_announced a SET tail = c_tail[i] FROM generate_subscripts(c_stream, 1) AS i
            WHERE a.queue BETWEEN c_queue[i] AND c_queue[i] AND a.tail < c_tail[i];
    END IF;
    IF cardinality(p_session) > 0 THEN
        DELETE FROM coordinator_progress p USING generate_subscripts(p_session, 1) AS i
            WHERE p.session BETWEEN p_session[i] AND p_session[i] AND p.applied >= p_from[i] AND p.applied < p_applied[i];
        INSERT INTO coordinator_progress (session, applied) SELECT p_session[i], p_applied[i] FROM generate_subscripts(p_session, 1) AS i ON CONFLICT DO NOTHING;
    END IF;
    IF cardinality(d_queue) > 0 THEN
        DELETE FROM coordinator_event e USING generate_subscripts(d_queue, 1) AS i
            WHERE e.queue BETWEEN d_queue[i] AND d_queue[i] AND e.position < d_head[i];
    END IF;
END
$$;
