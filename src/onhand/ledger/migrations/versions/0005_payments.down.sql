-- Back to tenders that somebody speaks of. Tenders of checkouts that never became orders have no place there.
DROP TABLE gift_card_movements;
DROP TABLE payment_outcomes;
DROP TABLE payment_operations;
DROP TRIGGER tenders_amount ON tenders;
DROP FUNCTION refuse_other_money;
DELETE FROM tenders WHERE order_id NOT IN (SELECT order_id FROM orders);
ALTER TABLE tenders
    DROP COLUMN provider, DROP COLUMN capture_at, DROP COLUMN gift_card_id, DROP COLUMN payment_method, DROP COLUMN is_declined,
    DROP COLUMN authorized_minor, DROP COLUMN captured_minor, DROP COLUMN voided_minor, DROP COLUMN refunded_minor,
    DROP COLUMN given_back_minor,
    ADD CONSTRAINT tenders_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders;
DROP TABLE gift_cards;
DROP TABLE checkouts;
DROP TABLE pgqueuer, pgqueuer_log, pgqueuer_schedules, pgqueuer_statistics;
DROP TYPE pgqueuer_status;
