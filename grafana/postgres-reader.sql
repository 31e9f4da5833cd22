-- The role that Grafana reads with: whoever may edit a panel may send any SQL, so it can write
-- nothing and no query of it runs for long. Change the password outside of a demonstration.
CREATE ROLE grafana_reader LOGIN PASSWORD 'grafana_reader' IN ROLE pg_read_all_data;
ALTER ROLE grafana_reader SET default_transaction_read_only = on;
ALTER ROLE grafana_reader SET statement_timeout = '30s';
