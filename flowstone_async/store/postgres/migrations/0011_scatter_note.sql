-- What bodies of a scatter noted and looked at, wherever they ran; see docs/adr/0008-scatter.md.

CREATE TABLE flowstone.scatter_note (
    scatter uuid NOT NULL,
    no bigint GENERATED ALWAYS AS IDENTITY,
    noted text NOT NULL,
    PRIMARY KEY (scatter, no)
);

COMMENT ON COLUMN flowstone.scatter_note.noted IS 'what was new since the note before, as JSON';
