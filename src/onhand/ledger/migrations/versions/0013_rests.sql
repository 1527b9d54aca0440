-- What was left out when a request was answered is a request of its own; of each transfer one at most.
ALTER TABLE transfers ADD COLUMN from_transfer_id uuid UNIQUE REFERENCES transfers;
