BEGIN TRANSACTION;
CREATE TABLE ledger_carried (
	carried_id VARCHAR(32) NOT NULL, 
	entry BLOB NOT NULL, 
	token INTEGER, 
	runs TEXT NOT NULL, 
	PRIMARY KEY (carried_id)
);
INSERT INTO "ledger_carried" VALUES('00000000000000000000000000000004',X'6B657965642068617368206F66206120706572736F6E',NULL,'["00000000000000000000000000000001","00000000000000000000000000000003"]');
INSERT INTO "ledger_carried" VALUES('00000000000000000000000000000005',X'6B657965642068617368206F66206120706572736F6E',77,'["00000000000000000000000000000001","00000000000000000000000000000003"]');
CREATE TABLE ledger_entries (
	position INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	about VARCHAR(32) NOT NULL, 
	reason TEXT NOT NULL, 
	at VARCHAR(40) NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	process_start VARCHAR(40) NOT NULL, 
	content VARCHAR(64) NOT NULL, 
	chain VARCHAR(64) NOT NULL, 
	PRIMARY KEY (position), 
	UNIQUE (chain)
);
INSERT INTO "ledger_entries" VALUES(1,'reserved','00000000000000000000000000000001','','2026-03-01T00:00:00+00:00','clinic/0123456789ab/01234567/pid:[4026531836]',4242,'4711','25a8d8db400d59bf089416f8e70b4a07a4639e3fef5c1034eb68c98cd024ce58','48ca8c15ce393910f0f0cb9fd9f7ee3411027598402a8d6461e348454eaa77a2');
INSERT INTO "ledger_entries" VALUES(2,'settled','00000000000000000000000000000001','','2026-03-01T00:00:00+00:00','clinic/0123456789ab/01234567/pid:[4026531836]',4242,'4711','','bf560f46a915726a1a8c45dcf4b4b974df94b408dba27a98a1ac6fc0453281fc');
INSERT INTO "ledger_entries" VALUES(3,'reserved','00000000000000000000000000000002','','2026-03-01T00:00:00+00:00','clinic/0123456789ab/01234567/pid:[4026531836]',4242,'4711','a6cf7eb89a3f634134db2d516b0eadb1ab5f40cf4cd33cdc1641a464f80e4424','7a24ff05a250daee462c7bd2f2821fe86cab6e5cfd8b223fef355b2f87665793');
INSERT INTO "ledger_entries" VALUES(4,'void','00000000000000000000000000000002','the machine lost power','2026-03-01T00:00:00+00:00','clinic/0123456789ab/01234567/pid:[4026531836]',4242,'4711','','1dc78a3748731a49c442a777e4223c13829832a32afb281ab9ed2c6f2606fe4c');
INSERT INTO "ledger_entries" VALUES(5,'reserved','00000000000000000000000000000003','','2026-03-01T00:00:00+00:00','clinic/0123456789ab/01234567/pid:[4026531836]',4242,'4711','42b3f50d915c27579743e902cecc1dba6f5c31833e6abb2c048e68d951b133f9','6dab86f744874e705ca34de1715cf77d8496ce090452f0edc036bfafa66b5cb0');
INSERT INTO "ledger_entries" VALUES(6,'settled','00000000000000000000000000000003','','2026-03-01T00:00:00+00:00','clinic/0123456789ab/01234567/pid:[4026531836]',4242,'4711','','c05f4982b5c7df77705a8ededb11779773b952bef3085fb4cbeee8462c396072');
INSERT INTO "ledger_entries" VALUES(7,'carried','00000000000000000000000000000004','','2026-03-01T00:00:00+00:00','clinic/0123456789ab/01234567/pid:[4026531836]',4242,'4711','94aa285599f7bbb5be626add7fcf47ed7bf8b566d00c480d120131c6fa8abffe','5f0ab07efd6453a53550ff62456accc1ca4c31bbbf11e3cd5eba68381dcf022f');
INSERT INTO "ledger_entries" VALUES(8,'carried','00000000000000000000000000000005','','2026-03-01T00:00:00+00:00','clinic/0123456789ab/01234567/pid:[4026531836]',4242,'4711','4fe0965bd6a97009eb47308759a826510327266a70f35bba074bbab7bd378e62','1e6c11cb49dc3c579ca6685804b01600f9fbbfd73283af73b4d96d4aa548f54b');
INSERT INTO "ledger_entries" VALUES(9,'reserved','00000000000000000000000000000006','','2026-03-01T00:00:00+00:00','clinic/0123456789ab/01234567/pid:[4026531836]',4242,'4711','332c00b758f63bd96c9f900b024062a82c7a88e82a1f7d7cf2c6db61077e1776','86545426c89c537b23f1df542f25bbe06a9962be86a9832a63465c329c7a0101');
CREATE TABLE ledger_schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "ledger_schema" VALUES(2);
CREATE TABLE ledger_spends (
	run_id VARCHAR(32) NOT NULL, 
	request TEXT NOT NULL, 
	event TEXT NOT NULL, 
	plan_digest VARCHAR(64) NOT NULL, 
	unit TEXT NOT NULL, 
	adjacency TEXT NOT NULL, 
	sampling TEXT NOT NULL, 
	records_per_person INTEGER NOT NULL, 
	delta FLOAT NOT NULL, 
	subjects INTEGER NOT NULL, 
	left_out INTEGER NOT NULL, 
	eligible BLOB NOT NULL, 
	manifest_sha256 VARCHAR(64) NOT NULL, 
	manifest_md5 VARCHAR(32) NOT NULL, 
	params_digest VARCHAR(64) NOT NULL, 
	code_digest VARCHAR(64) NOT NULL, 
	PRIMARY KEY (run_id)
);
INSERT INTO "ledger_spends" VALUES('00000000000000000000000000000001','a','{"count":300,"event":{"event":{"kind":"gaussian","noise_multiplier":6.6},"kind":"poisson_sampled","sampling_probability":0.1},"kind":"self_composed"}','e1525f1da381ed58201c6fbb28ace189c6b8bedd022ccfcbe7c3c12e2c620dde','person','add or remove one person','Poisson over persons',4,1.0e-05,8,0,X'3B3000000100000700010001000700','ce429c4ff439360602dbc6ad9c554104705c1a6b32603edf7af0f0bdb009cd6f','a43af58b591034845099a0efaab0ec11','4dd8017b995a63bd8e10715d62094876b2cff13f289321df7e2f848d8daa180b','cc020d52f1d7b4501f2c78ab5468b62599090200ade11573eb4041b4e924be6d');
INSERT INTO "ledger_spends" VALUES('00000000000000000000000000000002','b','{"count":300,"event":{"event":{"kind":"gaussian","noise_multiplier":6.6},"kind":"poisson_sampled","sampling_probability":0.1},"kind":"self_composed"}','e1525f1da381ed58201c6fbb28ace189c6b8bedd022ccfcbe7c3c12e2c620dde','person','add or remove one person','Poisson over persons',4,1.0e-05,3,0,X'3A300000010000000000020010000000010002000300','e62efae301d923a2f66c6b02113561f1ff08be14f106285ff0e1dfb5da87d1ff','d2f5052967068ffe44fbbb31a33a188b','4dd8017b995a63bd8e10715d62094876b2cff13f289321df7e2f848d8daa180b','cc020d52f1d7b4501f2c78ab5468b62599090200ade11573eb4041b4e924be6d');
INSERT INTO "ledger_spends" VALUES('00000000000000000000000000000003','c','{"count":300,"event":{"event":{"kind":"gaussian","noise_multiplier":60.0},"kind":"poisson_sampled","sampling_probability":0.1},"kind":"self_composed"}','6c253ec43ad70445393bdc77b563a55f41c8c39f038a0f6e4292337e8a8565fb','person','add or remove one person','Poisson over persons',2,1.0e-05,3,0,X'3A300000010000000000020010000000030004000500','41e9894db64e4fda629451413b496cebe7ba9fb90b77e917b72d14d3a1ddce55','90e72880bda7d9e255e68017c1ec171c','be1635dd4d482cdbad52432af98b3f6a40f0b11fd68209b497f188d0aafd0110','cc020d52f1d7b4501f2c78ab5468b62599090200ade11573eb4041b4e924be6d');
INSERT INTO "ledger_spends" VALUES('00000000000000000000000000000006','d','{"count":300,"event":{"event":{"kind":"gaussian","noise_multiplier":6.6},"kind":"poisson_sampled","sampling_probability":0.1},"kind":"self_composed"}','e1525f1da381ed58201c6fbb28ace189c6b8bedd022ccfcbe7c3c12e2c620dde','person','add or remove one person','Poisson over persons',4,1.0e-05,3,0,X'3A300000010000000000020010000000010002004D00','224ba24c8636b7bc6d3f4ce0151cd0f9276620769b4ac5101f7b0a3df2564fb1','d33f035d91fff911fd0a19e2267eb166','4dd8017b995a63bd8e10715d62094876b2cff13f289321df7e2f848d8daa180b','cc020d52f1d7b4501f2c78ab5468b62599090200ade11573eb4041b4e924be6d');
CREATE TRIGGER ledger_schema_no_update BEFORE UPDATE ON ledger_schema BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_schema_no_delete BEFORE DELETE ON ledger_schema BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_schema_no_replace BEFORE INSERT ON ledger_schema WHEN EXISTS (SELECT 1 FROM ledger_schema WHERE version = NEW.version) BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_entries_no_update BEFORE UPDATE ON ledger_entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_entries_no_delete BEFORE DELETE ON ledger_entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_entries_no_replace BEFORE INSERT ON ledger_entries WHEN EXISTS (SELECT 1 FROM ledger_entries WHERE position = NEW.position) BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE INDEX ix_ledger_spends_request ON ledger_spends (request);
CREATE TRIGGER ledger_spends_no_update BEFORE UPDATE ON ledger_spends BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_spends_no_delete BEFORE DELETE ON ledger_spends BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_spends_no_replace BEFORE INSERT ON ledger_spends WHEN EXISTS (SELECT 1 FROM ledger_spends WHERE run_id = NEW.run_id) BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE INDEX ix_ledger_carried_entry ON ledger_carried (entry);
CREATE TRIGGER ledger_carried_no_update BEFORE UPDATE ON ledger_carried BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_carried_no_delete BEFORE DELETE ON ledger_carried BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_carried_no_replace BEFORE INSERT ON ledger_carried WHEN EXISTS (SELECT 1 FROM ledger_carried WHERE carried_id = NEW.carried_id) BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
COMMIT;
