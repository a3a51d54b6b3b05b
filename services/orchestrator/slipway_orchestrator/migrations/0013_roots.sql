-- API processes of the release before this one know nothing of trees: a run that they start is its own root.
CREATE FUNCTION run_is_its_own_root() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.root_run_id := NEW.run_id;
    RETURN NEW;
END
$$;
CREATE TRIGGER run_without_root BEFORE INSERT ON run
    FOR EACH ROW WHEN (NEW.root_run_id IS NULL) EXECUTE FUNCTION run_is_its_own_root();
