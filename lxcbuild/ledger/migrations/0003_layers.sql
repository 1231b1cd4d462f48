-- What dependency layers did for each build (model.LayerUse); empty where it came to none.
ALTER TABLE build ADD COLUMN layers JSON;
