BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE event (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	xid BIGINT NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	tenant VARCHAR NOT NULL, 
	noun VARCHAR NOT NULL, 
	change VARCHAR(24) NOT NULL, 
	machine_id INTEGER, 
	subject_id INTEGER NOT NULL
);
INSERT INTO "event" VALUES(599,0,'2026-11-25T09:05:44.648000Z','default','snapshot','CREATED',11,582);
INSERT INTO "event" VALUES(600,0,'2026-11-25T09:05:44.671000Z','default','operation','CREATED',11,40);
INSERT INTO "event" VALUES(601,0,'2026-11-25T09:05:44.690000Z','default','snapshot','CREATED',11,583);
INSERT INTO "event" VALUES(602,0,'2026-11-25T09:05:44.690000Z','default','operation','CREATED',11,41);
INSERT INTO "event" VALUES(603,0,'2026-11-25T09:05:44.716000Z','default','operation','UPDATED',11,40);
INSERT INTO "event" VALUES(604,0,'2026-11-25T09:05:44.832000Z','default','operation','UPDATED',11,40);
CREATE TABLE idempotency_key (
	caller VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	mutation VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	answer VARCHAR NOT NULL, 
	created_at VARCHAR(27) NOT NULL, 
	CONSTRAINT pk_idempotency_key PRIMARY KEY (caller, tenant, mutation, "key")
);
INSERT INTO "idempotency_key" VALUES('local','default','createSnapshot','running when it was killed','57d90c4d4f4c0881da6ff22a5f29f6a578049675e82ebf04430f94db90defd0e','[{"operation":40,"snapshot":582,"machine":11,"descendant":false}]','2026-11-25T09:05:44.636176Z');
INSERT INTO "idempotency_key" VALUES('local','default','createSnapshot','waiting when it was killed','24ee17d1a84e19a11ef9d6d8a0b927b36c69d9fefccb3ecce9c85a6c9a8421fd','[{"operation":41,"snapshot":583,"machine":11,"descendant":false}]','2026-11-25T09:05:44.689885Z');
CREATE TABLE machine (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	tenant VARCHAR NOT NULL, 
	kind VARCHAR(24) NOT NULL, 
	name VARCHAR NOT NULL, 
	name_folded VARCHAR NOT NULL, 
	description VARCHAR, 
	description_folded VARCHAR, 
	provider VARCHAR NOT NULL, 
	provider_folded VARCHAR NOT NULL, 
	provider_ref VARCHAR NOT NULL, 
	provider_ref_folded VARCHAR NOT NULL, 
	provider_uid VARCHAR, 
	imported BOOLEAN NOT NULL, 
	power_state VARCHAR(24) NOT NULL, 
	host VARCHAR, 
	host_folded VARCHAR, 
	flavor VARCHAR, 
	availability_zone VARCHAR, 
	created_at VARCHAR(27) NOT NULL, 
	updated_at VARCHAR(27) NOT NULL, 
	observed_at VARCHAR(27) NOT NULL, 
	gone_at VARCHAR(27), 
	snapshot_count INTEGER DEFAULT 0 NOT NULL, obstacle VARCHAR, 
	CONSTRAINT fk_machine_provider FOREIGN KEY(provider) REFERENCES provider (name)
);
INSERT INTO "machine" VALUES(11,'default','VM','web-01','web-01','Front end of the shop','front end of the shop','lab','lab','vm-1011','vm-1011',NULL,0,'ON','esx-01','esx-01',NULL,NULL,'2025-10-21T09:05:00.000000Z','2026-11-25T09:05:00.000000Z','2026-11-25T09:05:00.000000Z',NULL,5,NULL);
INSERT INTO "machine" VALUES(12,'default','VM','db-01','db-01',NULL,NULL,'lab','lab','vm-1012','vm-1012',NULL,0,'OFF','esx-03','esx-03',NULL,NULL,'2024-10-09T09:05:00.000000Z','2026-11-25T09:05:00.000000Z','2026-11-25T09:05:00.000000Z',NULL,8,NULL);
INSERT INTO "machine" VALUES(201,'default','INSTANCE','api-01','api-01',NULL,NULL,'cloud','cloud','00000000-0000-4000-8000-0000000000c9','00000000-0000-4000-8000-0000000000c9',NULL,0,'ON',NULL,NULL,'m1.medium','zone-a','2026-01-29T09:05:00.000000Z','2026-11-25T09:05:00.000000Z','2026-11-25T09:05:00.000000Z',NULL,2,NULL);
CREATE TABLE operation (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	tenant VARCHAR NOT NULL, 
	kind VARCHAR(24) NOT NULL, 
	state VARCHAR(24) NOT NULL, 
	machine_id INTEGER, 
	machine_kind VARCHAR(24) NOT NULL, 
	machine_name VARCHAR NOT NULL, 
	snapshot_id INTEGER, 
	snapshot_name VARCHAR, 
	requested_by VARCHAR, 
	requested_by_folded VARCHAR, 
	created_at VARCHAR(27) NOT NULL, 
	started_at VARCHAR(27), 
	finished_at VARCHAR(27), 
	cancel_requested_at VARCHAR(27), 
	progress_percent INTEGER, 
	phase VARCHAR, 
	error_code VARCHAR, 
	error_message VARCHAR, 
	error_provider_message VARCHAR, 
	token VARCHAR NOT NULL, 
	wish VARCHAR NOT NULL, 
	task_ref VARCHAR, 
	issued BOOLEAN NOT NULL, 
	attempt INTEGER NOT NULL, 
	retry_at VARCHAR(27), 
	owner VARCHAR, 
	fence INTEGER NOT NULL, 
	lease_until VARCHAR(27)
);
INSERT INTO "operation" VALUES(8,'default','CREATE_SNAPSHOT','SUCCEEDED',12,'VM','db-01',307,'before-patch-307','carol','carol','2026-10-07T20:33:00.000000Z','2026-10-07T20:33:00.000000Z','2026-10-07T20:33:42.000000Z',NULL,NULL,NULL,NULL,NULL,NULL,'demo-307','{}',NULL,1,1,NULL,NULL,0,NULL);
INSERT INTO "operation" VALUES(19,'default','CREATE_SNAPSHOT','SUCCEEDED',11,'VM','web-01',3,'test-base','alice','alice','2026-10-16T09:05:00.000000Z','2026-10-16T09:05:00.000000Z','2026-10-16T09:05:42.000000Z',NULL,NULL,NULL,NULL,NULL,NULL,'demo-3','{}',NULL,1,1,NULL,NULL,0,NULL);
INSERT INTO "operation" VALUES(24,'default','CREATE_SNAPSHOT','SUCCEEDED',11,'VM','web-01',4,'test-before-upgrade','alice','alice','2026-11-04T09:05:00.000000Z','2026-11-04T09:05:00.000000Z','2026-11-04T09:05:42.000000Z',NULL,NULL,NULL,NULL,NULL,NULL,'demo-4','{}',NULL,1,1,NULL,NULL,0,NULL);
INSERT INTO "operation" VALUES(27,'default','CREATE_SNAPSHOT','SUCCEEDED',201,'INSTANCE','api-01',7,'before-release','carol','carol','2026-11-11T09:05:00.000000Z','2026-11-11T09:05:00.000000Z','2026-11-11T09:05:42.000000Z',NULL,NULL,NULL,NULL,NULL,NULL,'demo-7','{}',NULL,1,1,NULL,NULL,0,NULL);
INSERT INTO "operation" VALUES(29,'default','CREATE_SNAPSHOT','SUCCEEDED',11,'VM','web-01',5,'test-new-driver','bob','bob','2026-11-16T09:05:00.000000Z','2026-11-16T09:05:00.000000Z','2026-11-16T09:05:42.000000Z',NULL,NULL,NULL,NULL,NULL,NULL,'demo-5','{}',NULL,1,1,NULL,NULL,0,NULL);
INSERT INTO "operation" VALUES(34,'default','CREATE_SNAPSHOT','SUCCEEDED',12,'VM','db-01',308,'test-config-308','nightly-backup','nightly-backup','2026-11-20T15:28:00.000000Z','2026-11-20T15:28:00.000000Z','2026-11-20T15:28:42.000000Z',NULL,NULL,NULL,NULL,NULL,NULL,'demo-308','{}',NULL,1,1,NULL,NULL,0,NULL);
INSERT INTO "operation" VALUES(40,'default','CREATE_SNAPSHOT','RUNNING',11,'VM','web-01',582,'running when it was killed','local','local','2026-11-25T09:05:44.648486Z','2026-11-25T09:05:44.701420Z',NULL,NULL,2,'Copying the disks',NULL,NULL,NULL,'f3dfc4235efa44be97b7c057b78dd840','{"name":"running when it was killed","description":null,"memory":false}','task-b545a226e01241529dc93e619701a22b',1,1,NULL,NULL,1,NULL);
INSERT INTO "operation" VALUES(41,'default','CREATE_SNAPSHOT','QUEUED',11,'VM','web-01',583,'waiting when it was killed','local','local','2026-11-25T09:05:44.690235Z',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'a42359a7469b4a309f5df3794e82899d','{"name":"waiting when it was killed","description":null,"memory":false}',NULL,0,0,NULL,NULL,0,NULL);
CREATE TABLE provider (
	name VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	driver VARCHAR NOT NULL, 
	observed_at VARCHAR(27), 
	problem VARCHAR, 
	CONSTRAINT pk_provider PRIMARY KEY (name)
);
INSERT INTO "provider" VALUES('lab','default','simulated','2026-11-25T09:05:00.000000Z',NULL);
INSERT INTO "provider" VALUES('cloud','default','simulated','2026-11-25T09:05:00.000000Z',NULL);
CREATE TABLE simulated_machine (
	ref VARCHAR NOT NULL, 
	provider VARCHAR NOT NULL, 
	kind VARCHAR(24) NOT NULL, 
	name VARCHAR NOT NULL, 
	description VARCHAR, 
	power_state VARCHAR(24) NOT NULL, 
	host VARCHAR, 
	flavor VARCHAR, 
	availability_zone VARCHAR, 
	created_at VARCHAR(27) NOT NULL, 
	current_ref VARCHAR, 
	latency_ms INTEGER NOT NULL, 
	fault VARCHAR, 
	CONSTRAINT pk_simulated_machine PRIMARY KEY (ref)
);
INSERT INTO "simulated_machine" VALUES('vm-1011','lab','VM','web-01','Front end of the shop','ON','esx-01',NULL,NULL,'2025-10-21T09:05:00.000000Z','snapshot-1004',50,NULL);
INSERT INTO "simulated_machine" VALUES('00000000-0000-4000-8000-0000000000c9','cloud','INSTANCE','api-01',NULL,'ON',NULL,'m1.medium','zone-a','2026-01-29T09:05:00.000000Z',NULL,50,NULL);
INSERT INTO "simulated_machine" VALUES('vm-1012','lab','VM','db-01',NULL,'OFF','esx-03',NULL,NULL,'2024-10-09T09:05:00.000000Z','snapshot-1308',50,NULL);
CREATE TABLE simulated_snapshot (
	ref VARCHAR NOT NULL, 
	machine_ref VARCHAR NOT NULL, 
	token VARCHAR, 
	name VARCHAR NOT NULL, 
	description VARCHAR, 
	memory BOOLEAN NOT NULL, 
	parent_ref VARCHAR, 
	size_bytes BIGINT, 
	created_at VARCHAR(27) NOT NULL, 
	CONSTRAINT pk_simulated_snapshot PRIMARY KEY (ref)
);
INSERT INTO "simulated_snapshot" VALUES('snapshot-1003','vm-1011',NULL,'test-base',NULL,0,NULL,12884901888,'2026-10-16T09:05:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1004','vm-1011',NULL,'test-before-upgrade','Before the upgrade to 2.0',1,'snapshot-1003',19327352832,'2026-11-04T09:05:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1005','vm-1011',NULL,'test-new-driver',NULL,0,'snapshot-1003',13958643712,'2026-11-16T09:05:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1007','00000000-0000-4000-8000-0000000000c9',NULL,'before-release',NULL,0,NULL,8589934592,'2026-11-11T09:05:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1008','00000000-0000-4000-8000-0000000000c9',NULL,'test-image','For the staging cloud',0,NULL,9663676416,'2026-11-22T09:05:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1301','vm-1012',NULL,'test-restore-301',NULL,0,NULL,10487844864,'2025-12-26T12:33:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1302','vm-1012',NULL,'before-patch-302',NULL,0,'snapshot-1301',37539418112,'2026-02-13T19:56:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1303','vm-1012',NULL,'test-restore-303',NULL,0,'snapshot-1302',12457570304,'2026-06-01T20:28:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1304','vm-1012',NULL,'before-upgrade-304','Rückfall vor dem Umbau',0,'snapshot-1303',16592625664,'2026-06-04T15:36:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1305','vm-1012',NULL,'golden-305',NULL,0,'snapshot-1301',15739133952,'2026-06-25T23:00:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1306','vm-1012',NULL,'pre-migration-306','Rückfall vor dem Umbau',0,'snapshot-1305',21791563776,'2026-09-02T11:22:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1307','vm-1012',NULL,'before-patch-307','Ask the owner before deleting',0,'snapshot-1306',38330241024,'2026-10-07T20:33:00.000000Z');
INSERT INTO "simulated_snapshot" VALUES('snapshot-1308','vm-1012',NULL,'test-config-308',NULL,0,'snapshot-1302',18783289344,'2026-11-20T15:28:00.000000Z');
CREATE TABLE simulated_task (
	ref VARCHAR NOT NULL, 
	machine_ref VARCHAR NOT NULL, 
	token VARCHAR NOT NULL, 
	verb VARCHAR NOT NULL, 
	argument VARCHAR NOT NULL, 
	started_at VARCHAR(27) NOT NULL, 
	done_at VARCHAR(27) NOT NULL, 
	applied BOOLEAN NOT NULL, 
	error VARCHAR, 
	CONSTRAINT pk_simulated_task PRIMARY KEY (ref)
);
INSERT INTO "simulated_task" VALUES('task-b545a226e01241529dc93e619701a22b','vm-1011','f3dfc4235efa44be97b7c057b78dd840','create','{"name":"running when it was killed","description":null,"memory":false}','2026-11-25T09:05:44.792087Z','2026-11-25T09:05:46.292087Z',0,NULL);
CREATE TABLE snapshot (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	tenant VARCHAR NOT NULL, 
	machine_id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	name_folded VARCHAR NOT NULL, 
	description VARCHAR, 
	description_folded VARCHAR, 
	state VARCHAR(24) NOT NULL, 
	memory BOOLEAN NOT NULL, 
	is_current BOOLEAN NOT NULL, 
	size_bytes BIGINT, 
	provider_ref VARCHAR, 
	provider_ref_folded VARCHAR, 
	created_at VARCHAR(27) NOT NULL, 
	created_by VARCHAR, 
	created_by_folded VARCHAR, 
	observed_at VARCHAR(27), 
	parent_id INTEGER, 
	CONSTRAINT fk_snapshot_machine_id FOREIGN KEY(machine_id) REFERENCES machine (id), 
	CONSTRAINT fk_snapshot_parent_id FOREIGN KEY(parent_id) REFERENCES snapshot (id)
);
INSERT INTO "snapshot" VALUES(3,'default',11,'test-base','test-base',NULL,NULL,'READY',0,0,12884901888,'snapshot-1003','snapshot-1003','2026-10-16T09:05:00.000000Z','alice','alice','2026-11-25T09:05:00.000000Z',NULL);
INSERT INTO "snapshot" VALUES(4,'default',11,'test-before-upgrade','test-before-upgrade','Before the upgrade to 2.0','before the upgrade to 2.0','READY',1,1,19327352832,'snapshot-1004','snapshot-1004','2026-11-04T09:05:00.000000Z','alice','alice','2026-11-25T09:05:00.000000Z',3);
INSERT INTO "snapshot" VALUES(5,'default',11,'test-new-driver','test-new-driver',NULL,NULL,'READY',0,0,13958643712,'snapshot-1005','snapshot-1005','2026-11-16T09:05:00.000000Z','bob','bob','2026-11-25T09:05:00.000000Z',3);
INSERT INTO "snapshot" VALUES(7,'default',201,'before-release','before-release',NULL,NULL,'READY',0,0,8589934592,'snapshot-1007','snapshot-1007','2026-11-11T09:05:00.000000Z','carol','carol','2026-11-25T09:05:00.000000Z',NULL);
INSERT INTO "snapshot" VALUES(8,'default',201,'test-image','test-image','For the staging cloud','for the staging cloud','READY',0,0,9663676416,'snapshot-1008','snapshot-1008','2026-11-22T09:05:00.000000Z',NULL,NULL,'2026-11-25T09:05:00.000000Z',NULL);
INSERT INTO "snapshot" VALUES(301,'default',12,'test-restore-301','test-restore-301',NULL,NULL,'READY',0,0,10487844864,'snapshot-1301','snapshot-1301','2025-12-26T12:33:00.000000Z','carol','carol','2026-11-25T09:05:00.000000Z',NULL);
INSERT INTO "snapshot" VALUES(302,'default',12,'before-patch-302','before-patch-302',NULL,NULL,'READY',0,0,37539418112,'snapshot-1302','snapshot-1302','2026-02-13T19:56:00.000000Z',NULL,NULL,'2026-11-25T09:05:00.000000Z',301);
INSERT INTO "snapshot" VALUES(303,'default',12,'test-restore-303','test-restore-303',NULL,NULL,'READY',0,0,12457570304,'snapshot-1303','snapshot-1303','2026-06-01T20:28:00.000000Z','alice','alice','2026-11-25T09:05:00.000000Z',302);
INSERT INTO "snapshot" VALUES(304,'default',12,'before-upgrade-304','before-upgrade-304','Rückfall vor dem Umbau','rückfall vor dem umbau','READY',0,0,16592625664,'snapshot-1304','snapshot-1304','2026-06-04T15:36:00.000000Z','nightly-backup','nightly-backup','2026-11-25T09:05:00.000000Z',303);
INSERT INTO "snapshot" VALUES(305,'default',12,'golden-305','golden-305',NULL,NULL,'READY',0,0,15739133952,'snapshot-1305','snapshot-1305','2026-06-25T23:00:00.000000Z',NULL,NULL,'2026-11-25T09:05:00.000000Z',301);
INSERT INTO "snapshot" VALUES(306,'default',12,'pre-migration-306','pre-migration-306','Rückfall vor dem Umbau','rückfall vor dem umbau','READY',0,0,21791563776,'snapshot-1306','snapshot-1306','2026-09-02T11:22:00.000000Z','alice','alice','2026-11-25T09:05:00.000000Z',305);
INSERT INTO "snapshot" VALUES(307,'default',12,'before-patch-307','before-patch-307','Ask the owner before deleting','ask the owner before deleting','READY',0,0,38330241024,'snapshot-1307','snapshot-1307','2026-10-07T20:33:00.000000Z','carol','carol','2026-11-25T09:05:00.000000Z',306);
INSERT INTO "snapshot" VALUES(308,'default',12,'test-config-308','test-config-308',NULL,NULL,'READY',0,1,18783289344,'snapshot-1308','snapshot-1308','2026-11-20T15:28:00.000000Z','nightly-backup','nightly-backup','2026-11-25T09:05:00.000000Z',302);
INSERT INTO "snapshot" VALUES(582,'default',11,'running when it was killed','running when it was killed',NULL,NULL,'CREATING',0,0,NULL,NULL,NULL,'2026-11-25T09:05:44.647441Z','local','local',NULL,NULL);
INSERT INTO "snapshot" VALUES(583,'default',11,'waiting when it was killed','waiting when it was killed',NULL,NULL,'CREATING',0,0,NULL,NULL,NULL,'2026-11-25T09:05:44.690110Z','local','local',NULL,NULL);
CREATE INDEX ix_event_order ON event (xid, id);
CREATE INDEX ix_idempotency_key_created_at ON idempotency_key (created_at);
CREATE INDEX ix_operation_created ON operation (tenant, created_at, id);
CREATE INDEX ix_operation_machine ON operation (machine_id, created_at, id);
CREATE INDEX ix_operation_snapshot ON operation (snapshot_id, id);
CREATE INDEX ix_operation_unfinished ON operation (machine_id, id) WHERE state IN ('QUEUED', 'RUNNING');
CREATE UNIQUE INDEX one_running_per_machine ON operation (machine_id) WHERE state = 'RUNNING';
CREATE INDEX ix_simulated_machine_provider ON simulated_machine (provider);
CREATE INDEX ix_simulated_snapshot_machine_ref ON simulated_snapshot (machine_ref);
CREATE INDEX ix_simulated_task_machine_ref ON simulated_task (machine_ref);
CREATE INDEX ix_simulated_task_token ON simulated_task (token);
CREATE INDEX ix_machine_created ON machine (tenant, created_at, id);
CREATE INDEX ix_machine_name ON machine (tenant, name, id);
CREATE INDEX ix_machine_name_folded ON machine (tenant, name_folded, id);
CREATE UNIQUE INDEX one_machine_per_provider_ref ON machine (provider, provider_ref) WHERE NOT imported;
CREATE INDEX ix_snapshot_created ON snapshot (tenant, created_at, id);
CREATE INDEX ix_snapshot_machine_created ON snapshot (machine_id, created_at, id);
CREATE INDEX ix_snapshot_machine_name ON snapshot (machine_id, name_folded, id);
CREATE INDEX ix_snapshot_name ON snapshot (tenant, name_folded, id);
CREATE INDEX ix_snapshot_parent ON snapshot (parent_id) WHERE parent_id IS NOT NULL;
CREATE UNIQUE INDEX one_current_per_machine ON snapshot (machine_id) WHERE is_current;
CREATE TRIGGER snapshot_updated AFTER UPDATE ON snapshot WHEN (OLD.name, OLD.description, OLD.state, OLD.memory, OLD.is_current, OLD.size_bytes, OLD.provider_ref, OLD.created_at, OLD.created_by, OLD.parent_id) IS NOT (NEW.name, NEW.description, NEW.state, NEW.memory, NEW.is_current, NEW.size_bytes, NEW.provider_ref, NEW.created_at, NEW.created_by, NEW.parent_id) BEGIN INSERT INTO event (xid, at, tenant, noun, change, machine_id, subject_id) VALUES (0, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'), NEW.tenant, 'snapshot', 'UPDATED', NEW.machine_id, NEW.id); END;
CREATE TRIGGER operation_updated AFTER UPDATE ON operation WHEN (OLD.state, OLD.progress_percent, OLD.phase, OLD.cancel_requested_at, OLD.started_at, OLD.finished_at, OLD.error_code, OLD.snapshot_id) IS NOT (NEW.state, NEW.progress_percent, NEW.phase, NEW.cancel_requested_at, NEW.started_at, NEW.finished_at, NEW.error_code, NEW.snapshot_id) BEGIN INSERT INTO event (xid, at, tenant, noun, change, machine_id, subject_id) VALUES (0, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'), NEW.tenant, 'operation', 'UPDATED', NEW.machine_id, NEW.id); END;
CREATE TRIGGER operation_inserted AFTER INSERT ON operation BEGIN INSERT INTO event (xid, at, tenant, noun, change, machine_id, subject_id) VALUES (0, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'), NEW.tenant, 'operation', 'CREATED', NEW.machine_id, NEW.id); END;
CREATE TRIGGER snapshot_inserted AFTER INSERT ON snapshot BEGIN UPDATE machine SET snapshot_count = snapshot_count + 1 WHERE id = NEW.machine_id; INSERT INTO event (xid, at, tenant, noun, change, machine_id, subject_id) VALUES (0, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'), NEW.tenant, 'snapshot', 'CREATED', NEW.machine_id, NEW.id); END;
CREATE TRIGGER snapshot_deleted AFTER DELETE ON snapshot BEGIN UPDATE machine SET snapshot_count = snapshot_count - 1 WHERE id = OLD.machine_id; INSERT INTO event (xid, at, tenant, noun, change, machine_id, subject_id) VALUES (0, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'), OLD.tenant, 'snapshot', 'DELETED', OLD.machine_id, OLD.id); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('machine',224);
INSERT INTO "sqlite_sequence" VALUES('event',604);
INSERT INTO "sqlite_sequence" VALUES('snapshot',583);
INSERT INTO "sqlite_sequence" VALUES('operation',41);
COMMIT;
